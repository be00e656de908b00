using System.Numerics.Tensors;
using FlashInfer.Attention;

namespace FlashInfer.Cpu;

/// <summary>Copies new keys and values into pages, or quantises them on the way; a unit is one item of the list.</summary>
internal sealed unsafe class CpuAppendJob(AttentionShape shape) : CpuJob
{
    private const int ElementSize = 2;

    private readonly int _kvHeads = shape.KvHeads;
    private readonly int _headDim = shape.HeadDim;
    private readonly int _pageSize = shape.PageSize;
    private readonly DType _dtype = shape.Dtype;
    private readonly DType _kvDtype = shape.KvDtype;
    private readonly bool _isQuantised = shape.IsQuantised;

    /// <summary>Whether copying takes longer than waking threads does.</summary>
    public bool IsWorthThreads(int items) => items > 1 && (long)items * 16 * _kvHeads * _headDim * ElementSize >= 256 * 1024;

    public override void Execute(nint args, int unit, int worker)
    {
        ref readonly AppendParams p = ref *(AppendParams*)args;
        ref readonly AppendItem item = ref ((AppendItem*)((ListHeader*)p.Plan + 1))[unit];
        int* pages = (int*)p.Pages + item.PageOffset;
        for (int token = 0; token < item.Count; token++)
        {
            int position = item.Position + token;
            long row = (long)item.Row + token;
            long to = (pages[position / _pageSize] * p.PageStride) + (position % _pageSize * p.TokenStride);
            if (_isQuantised)
            {
                Quantise(p.Key, row * p.KeyRowStride, p.KeyHeadStride, p.KeyCache, to, p.HeadStride, (float*)p.KeyScales);
                Quantise(p.Value, row * p.ValueRowStride, p.ValueHeadStride, p.ValueCache, to, p.HeadStride, (float*)p.ValueScales);
                continue;
            }

            Copy(p.Key, row * p.KeyRowStride, p.KeyHeadStride, p.KeyCache, to, p.HeadStride);
            Copy(p.Value, row * p.ValueRowStride, p.ValueHeadStride, p.ValueCache, to, p.HeadStride);
        }
    }

    private void Copy(nint source, long from, long fromHead, nint destination, long to, long toHead)
    {
        int heads = _kvHeads;
        long length = _headDim;
        if (fromHead == length && toHead == length)
        {
            length *= heads;
            heads = 1;
        }

        for (int head = 0; head < heads; head++)
        {
            byte* sourceHead = (byte*)source + ((from + (head * fromHead)) * ElementSize);
            byte* destinationHead = (byte*)destination + ((to + (head * toHead)) * ElementSize);
            long bytes = length * ElementSize;
            Buffer.MemoryCopy(sourceHead, destinationHead, bytes, bytes);
        }
    }

    /// <summary>Divides by the head's scale in single precision, as the GPU does, and rounds: the same bits on every device.</summary>
    private void Quantise(nint source, long from, long fromHead, nint destination, long to, long toHead, float* scales)
    {
        Span<float> wide = stackalloc float[_headDim];
        for (int head = 0; head < _kvHeads; head++)
        {
            void* sourceHead = (ushort*)source + from + (head * fromHead);
            void* destinationHead = (byte*)destination + to + (head * toHead);
            if (_dtype == DType.Float16)
            {
                TensorPrimitives.ConvertToSingle(new ReadOnlySpan<Half>(sourceHead, _headDim), wide);
            }
            else
            {
                BFloat16.Convert(new ReadOnlySpan<BFloat16>(sourceHead, _headDim), wide);
            }

            TensorPrimitives.Divide(wide, scales[head], wide);
            if (_kvDtype == DType.Float8E4M3)
            {
                Float8E4M3.Convert(wide, new Span<Float8E4M3>(destinationHead, _headDim));
            }
            else
            {
                Float8E5M2.Convert(wide, new Span<Float8E5M2>(destinationHead, _headDim));
            }
        }
    }
}
