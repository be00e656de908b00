using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.Tests;

/// <summary>
/// Staging as kernels/attention/stage.cuh has it, an element at a time, ahead of the CPU's ragged prefill: what a wrapper does about it can be
/// tested without a GPU.
/// </summary>
internal sealed unsafe class StagingOnCpu : StagedPrefillKernel
{
    private readonly AttentionSpec _spec;
    private readonly bool _isPaged;

    private StagingOnCpu(Device device, AttentionSpec spec, bool isPaged)
        : base(device.Kernels(spec).Prefill(isPaged: false))
    {
        _spec = spec;
        _isPaged = isPaged;
    }

    /// <summary>Null on a GPU, which has its own, and where keys turn, which the CPU's ragged prefill would turn again.</summary>
    public static StagingOnCpu? For(Device device, AttentionSpec spec, bool isPaged) =>
        device.Kind == DeviceKind.Cpu && !spec.Shape.Turns ? new StagingOnCpu(device, spec, isPaged) : null;

    public override bool Stage(in StageParams args, in ListLaunch launch, CudaStream? stream)
    {
        ListHeader* header = (ListHeader*)args.Plan;
        Assert.Equal(launch.Items, header->Count);
        foreach (ref readonly StageItem item in new ReadOnlySpan<StageItem>(header + 1, header->Count))
        {
            for (int i = 0; i < item.Count; i++)
            {
                int position = item.Position + i;
                if (!_isPaged)
                {
                    CopyKey(args, (long)(item.PageOffset + position) * args.TokenStride, item.Row + i);
                    continue;
                }

                int page = ((int*)args.Pages)[item.PageOffset + (position / _spec.PageSize)];
                if (args.Fault != 0 && (uint)page >= (uint)args.PageCount)
                {
                    *(KernelFault*)args.Fault = new KernelFault
                    {
                        Kind = KernelFaultKind.PageOutOfRange,
                        Row = item.Row + i,
                        Token = position,
                        Value = page,
                    };
                    return false;
                }

                long from = (page * args.PageStride) + (position % _spec.PageSize * args.TokenStride);
                for (int head = 0; head < _spec.KvHeads; head++)
                {
                    long to = (((long)(item.Row + i) * _spec.KvHeads) + head) * _spec.HeadDim;
                    Widen(args.Key, from + (head * args.HeadStride), args.StagedKey, to);
                    Widen(args.Value, from + (head * args.HeadStride), args.StagedValue, to);
                }
            }
        }

        return false;
    }

    private void CopyKey(in StageParams args, long from, long row)
    {
        for (int head = 0; head < _spec.KvHeads; head++)
        {
            int bytes = _spec.HeadDim * sizeof(ushort);
            long to = ((row * _spec.KvHeads) + head) * _spec.HeadDim;
            Buffer.MemoryCopy((ushort*)args.Key + from + (head * args.HeadStride), (ushort*)args.StagedKey + to, bytes, bytes);
        }
    }

    /// <summary>The ragged kernel is the device's.</summary>
    public override void Dispose() { }

    private void Widen(nint source, long from, nint target, long to)
    {
        for (int e = 0; e < _spec.HeadDim; e++)
        {
            if (_spec.KvDtype == _spec.Dtype)
            {
                ((ushort*)target)[to + e] = ((ushort*)source)[from + e];
                continue;
            }

            float value = _spec.KvDtype == DType.Float8E4M3 ? ((Float8E4M3*)source)[from + e] : (float)((Float8E5M2*)source)[from + e];
            if (_spec.Dtype == DType.Float16)
            {
                ((Half*)target)[to + e] = (Half)value;
            }
            else
            {
                ((BFloat16*)target)[to + e] = (BFloat16)value;
            }
        }
    }
}
