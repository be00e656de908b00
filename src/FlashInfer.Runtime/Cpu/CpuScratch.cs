using System.Runtime.InteropServices;

namespace FlashInfer.Cpu;

/// <summary>What a worker needs beside its inputs and outputs, allocated once for all workers.</summary>
internal sealed unsafe class CpuScratch : IDisposable
{
    /// <summary>Tokens that are scored, weighted and summed at a time: small enough that a block of keys stays in the L1 or L2 cache.</summary>
    public const int BlockTokens = 64;

    private const int Alignment = 256;

    private readonly WorkerScratch[] _workers;
    private void* _memory;

    public CpuScratch(int workers, int columns, int headDim, int valueDim)
    {
        Columns = columns;
        int widerDim = Math.Max(headDim, valueDim);
        long queries = Aligned((long)columns * headDim * sizeof(float));
        long outputs = Aligned((long)columns * valueDim * sizeof(float));
        long scores = Aligned((long)columns * BlockTokens * sizeof(float));
        long perColumn = Aligned((long)columns * sizeof(float));
        long rows = Aligned(BlockTokens * sizeof(nint));
        long wide = Aligned((long)BlockTokens * widerDim * sizeof(float));
        // A page between two workers' memory keeps them out of each other's cache lines and prefetches.
        long each = queries + outputs + scores + (3 * perColumn) + (4 * rows) + wide + 4096;
        _memory = NativeMemory.AlignedAlloc((nuint)(each * workers), Alignment);
        _workers = new WorkerScratch[workers];
        for (int i = 0; i < workers; i++)
        {
            byte* at = (byte*)_memory + (i * each);
            _workers[i] = new WorkerScratch
            {
                Query = (float*)Take(ref at, queries),
                Output = (float*)Take(ref at, outputs),
                Scores = (float*)Take(ref at, scores),
                Max = (float*)Take(ref at, perColumn),
                Sum = (float*)Take(ref at, perColumn),
                Rescale = (float*)Take(ref at, perColumn),
                KeyOffsets = (nint*)Take(ref at, rows),
                ValueOffsets = (nint*)Take(ref at, rows),
                NextKeyOffsets = (nint*)Take(ref at, rows),
                WideOffsets = (nint*)Take(ref at, rows),
                Wide = (float*)Take(ref at, wide),
            };
            for (int token = 0; token < BlockTokens; token++)
            {
                _workers[i].WideOffsets[token] = (nint)token * widerDim * sizeof(float);
            }
        }
    }

    /// <summary>Columns that a unit has room for.</summary>
    public int Columns { get; }

    public ref readonly WorkerScratch this[int worker] => ref _workers[worker];

    public void Dispose()
    {
        NativeMemory.AlignedFree(_memory);
        _memory = null;
    }

    private static long Aligned(long bytes) => (bytes + Alignment - 1) & ~(long)(Alignment - 1);

    private static byte* Take(ref byte* at, long bytes)
    {
        byte* taken = at;
        at += bytes;
        return taken;
    }
}

/// <summary>One worker's scratch memory.</summary>
internal unsafe struct WorkerScratch
{
    /// <summary>The unit's query times the softmax scale, [columns, headDim].</summary>
    public float* Query;

    /// <summary>Running output, not normalised, [columns, valueDim].</summary>
    public float* Output;

    /// <summary>A block's scores, then weights, [columns, BlockTokens].</summary>
    public float* Scores;

    /// <summary>Largest score so far, [columns].</summary>
    public float* Max;

    /// <summary>Sum of weights so far, [columns].</summary>
    public float* Sum;

    /// <summary>What a block multiplies the running output with, [columns].</summary>
    public float* Rescale;

    /// <summary>Bytes to a block's keys.</summary>
    public nint* KeyOffsets;

    /// <summary>Bytes to a block's values.</summary>
    public nint* ValueOffsets;

    /// <summary>Bytes to the keys of the block after it.</summary>
    public nint* NextKeyOffsets;

    /// <summary>Bytes to the rows of <see cref="Wide"/>.</summary>
    public nint* WideOffsets;

    /// <summary>A block of keys or values as singles, [BlockTokens, the wider of headDim and valueDim].</summary>
    public float* Wide;
}
