using FlashInfer.Attention;

namespace FlashInfer.Cpu;

/// <summary>Copies new keys and values into pages; a unit is one item of the list.</summary>
internal sealed unsafe class CpuAppendJob(AttentionShape shape) : CpuJob
{
    private readonly int _kvHeads = shape.KvHeads;
    private readonly int _headDim = shape.HeadDim;
    private readonly int _pageSize = shape.PageSize;
    private readonly int _elementSize = shape.KvDtype.Size();

    /// <summary>Whether copying takes longer than waking threads does.</summary>
    public bool IsWorthThreads(int items) => items > 1 && (long)items * 16 * _kvHeads * _headDim * _elementSize >= 256 * 1024;

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
            byte* sourceHead = (byte*)source + ((from + (head * fromHead)) * _elementSize);
            byte* destinationHead = (byte*)destination + ((to + (head * toHead)) * _elementSize);
            long bytes = length * _elementSize;
            Buffer.MemoryCopy(sourceHead, destinationHead, bytes, bytes);
        }
    }
}
