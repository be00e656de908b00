using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.Tests;

/// <summary>
/// Staging as kernels/attention/stage.cuh has it, an element at a time, ahead of the CPU's ragged prefill, or in one launch with it where Hopper's
/// kernel has a stager (prefill_stager.cuh): what a wrapper does about it can be tested without a GPU.
/// </summary>
internal sealed unsafe class StagingOnCpu : StagedPrefillKernel
{
    private readonly AttentionSpec _spec;
    private readonly bool _isPaged;

    private StagingOnCpu(Device device, AttentionSpec spec, bool isPaged)
        : base(HasStager(spec, isPaged) ? new Stager(device, spec) : device.Kernels(spec).Prefill(isPaged: false))
    {
        _spec = spec;
        _isPaged = isPaged;
    }

    /// <summary>Null on a GPU, which has its own, and where keys turn, which the CPU's ragged prefill would turn again.</summary>
    public static StagingOnCpu? For(Device device, AttentionSpec spec, bool isPaged) =>
        device.Kind == DeviceKind.Cpu && !spec.Shape.Turns ? new StagingOnCpu(device, spec, isPaged) : null;

    public override bool Stage(in StageParams args, in ListLaunch launch, CudaStream? stream)
    {
        Assert.False(Prefill.HasStager);
        Assert.Equal(launch.Items, ((ListHeader*)args.Plan)->Count);
        Stage(args, _spec, _isPaged);
        return false;
    }

    private static bool HasStager(AttentionSpec spec, bool isPaged) => isPaged && spec.PageSize % 8 != 0 && !spec.Shape.IsQuantised;

    private static void Stage(in StageParams args, AttentionSpec spec, bool isPaged)
    {
        ListHeader* header = (ListHeader*)args.Plan;
        foreach (ref readonly StageItem item in new ReadOnlySpan<StageItem>(header + 1, header->Count))
        {
            for (int i = 0; i < item.Count; i++)
            {
                int position = item.Position + i;
                if (!isPaged)
                {
                    CopyKey(args, spec, (long)(item.PageOffset + position) * args.TokenStride, item.Row + i);
                    continue;
                }

                int page = ((int*)args.Pages)[item.PageOffset + (position / spec.PageSize)];
                if (args.Fault != 0 && (uint)page >= (uint)args.PageCount)
                {
                    *(KernelFault*)args.Fault = new KernelFault
                    {
                        Kind = KernelFaultKind.PageOutOfRange,
                        Row = item.Row + i,
                        Token = position,
                        Value = page,
                    };
                    return;
                }

                long from = (page * args.PageStride) + (position % spec.PageSize * args.TokenStride);
                for (int head = 0; head < spec.KvHeads; head++)
                {
                    long to = (((long)(item.Row + i) * spec.KvHeads) + head) * spec.HeadDim;
                    Widen(spec, args.Key, from + (head * args.HeadStride), args.StagedKey, to);
                    Widen(spec, args.Value, from + (head * args.HeadStride), args.StagedValue, to);
                }
            }
        }
    }

    private static void CopyKey(in StageParams args, AttentionSpec spec, long from, long row)
    {
        for (int head = 0; head < spec.KvHeads; head++)
        {
            int bytes = spec.HeadDim * sizeof(ushort);
            long to = ((row * spec.KvHeads) + head) * spec.HeadDim;
            Buffer.MemoryCopy((ushort*)args.Key + from + (head * args.HeadStride), (ushort*)args.StagedKey + to, bytes, bytes);
        }
    }

    /// <summary>The ragged kernel is the device's.</summary>
    public override void Dispose() { }

    private static void Widen(AttentionSpec spec, nint source, long from, nint target, long to)
    {
        for (int e = 0; e < spec.HeadDim; e++)
        {
            if (spec.KvDtype == spec.Dtype)
            {
                ((ushort*)target)[to + e] = ((ushort*)source)[from + e];
                continue;
            }

            float value = spec.KvDtype == DType.Float8E4M3 ? ((Float8E4M3*)source)[from + e] : (float)((Float8E5M2*)source)[from + e];
            if (spec.Dtype == DType.Float16)
            {
                ((Half*)target)[to + e] = (Half)value;
            }
            else
            {
                ((BFloat16*)target)[to + e] = (BFloat16)value;
            }
        }
    }

    /// <summary>Ragged prefill that stages its rows first.</summary>
    private sealed class Stager(Device device, AttentionSpec spec) : PrefillKernel
    {
        private readonly PrefillKernel _ragged = device.Kernels(spec).Prefill(isPaged: false);

        public override string Name => _ragged.Name;

        public override int Blocks => _ragged.Blocks;

        public override int Pack => _ragged.Pack;

        public override int HeadTiles => _ragged.HeadTiles;

        public override int TileTokens => _ragged.TileTokens;

        public override int TileRows => _ragged.TileRows;

        public override int BlockTokens => _ragged.BlockTokens;

        public override bool HasStager => true;

        public override bool Run(ref PrefillParams args, in ListLaunch launch, CudaStream? stream)
        {
            ListHeader* list = (ListHeader*)args.Staged;
            ReadOnlySpan<StageItem> items = new(list + 1, list->Count);
            int rows = 0;
            foreach (ref readonly StageItem item in items)
            {
                rows += item.Count;
            }

            Assert.Equal(rows, list->FreshTokens);
            StageParams stage = new()
            {
                Key = args.Key,
                Value = args.Value,
                StagedKey = args.StagedKey,
                StagedValue = args.StagedValue,
                Pages = args.Pages,
                Plan = args.Staged,
                PageStride = args.KeyPageStride,
                TokenStride = args.KeyTokenStride,
                HeadStride = args.KeyHeadStride,
                Fault = args.Fault,
                PageCount = args.PageCount,
            };
            Stage(stage, spec, isPaged: true);
            PrefillParams ragged = args with
            {
                Key = args.StagedKey,
                Value = args.StagedValue,
                Pages = 0,
                KeyTokenStride = spec.KvHeads * spec.HeadDim,
                ValueTokenStride = spec.KvHeads * spec.HeadDim,
                KeyHeadStride = spec.HeadDim,
                ValueHeadStride = spec.HeadDim,
            };
            return _ragged.Run(ref ragged, launch, stream);
        }

        public override void Dispose() { }
    }
}
