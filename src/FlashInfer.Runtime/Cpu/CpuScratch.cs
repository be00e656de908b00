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

    public CpuScratch(int workers, int groupSize, int headDim)
    {
        long head = Aligned((long)groupSize * headDim * sizeof(float));
        long scores = Aligned((long)groupSize * BlockTokens * sizeof(float));
        long perHead = Aligned((long)groupSize * sizeof(float));
        long rows = Aligned(BlockTokens * sizeof(nint));
        long wide = Aligned((long)BlockTokens * headDim * sizeof(float));
        // A page between two workers' memory keeps them out of each other's cache lines and prefetches.
        long each = (2 * head) + scores + (3 * perHead) + (3 * rows) + wide + 4096;
        _memory = NativeMemory.AlignedAlloc((nuint)(each * workers), Alignment);
        _workers = new WorkerScratch[workers];
        for (int i = 0; i < workers; i++)
        {
            byte* at = (byte*)_memory + (i * each);
            _workers[i] = new WorkerScratch
            {
                Query = (float*)Take(ref at, head),
                Output = (float*)Take(ref at, head),
                Scores = (float*)Take(ref at, scores),
                Max = (float*)Take(ref at, perHead),
                Sum = (float*)Take(ref at, perHead),
                Rescale = (float*)Take(ref at, perHead),
                Offsets = (nint*)Take(ref at, rows),
                NextOffsets = (nint*)Take(ref at, rows),
                WideOffsets = (nint*)Take(ref at, rows),
                Wide = (float*)Take(ref at, wide),
            };
            for (int token = 0; token < BlockTokens; token++)
            {
                _workers[i].WideOffsets[token] = (nint)token * headDim * sizeof(float);
            }
        }
    }

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
    /// <summary>The group's query times the softmax scale, [groupSize, headDim].</summary>
    public float* Query;

    /// <summary>Running output, not normalised, [groupSize, headDim].</summary>
    public float* Output;

    /// <summary>A block's scores, then weights, [groupSize, BlockTokens].</summary>
    public float* Scores;

    /// <summary>Largest score so far, [groupSize].</summary>
    public float* Max;

    /// <summary>Sum of weights so far, [groupSize].</summary>
    public float* Sum;

    /// <summary>What a block multiplies the running output with, [groupSize].</summary>
    public float* Rescale;

    /// <summary>Bytes to a block's rows, of keys and values alike.</summary>
    public nint* Offsets;

    /// <summary>Bytes to the rows of the block after it.</summary>
    public nint* NextOffsets;

    /// <summary>Bytes to the rows of <see cref="Wide"/>.</summary>
    public nint* WideOffsets;

    /// <summary>A block of keys or values as singles, [BlockTokens, headDim].</summary>
    public float* Wide;
}
