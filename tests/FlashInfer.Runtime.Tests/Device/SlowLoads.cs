using FlashInfer.Attention;
using FlashInfer.Cpu;
using FlashInfer.Cuda;

namespace FlashInfer.Tests.Devices;

/// <summary>A CPU device whose kernels take as long to load as a test wants, or fail.</summary>
internal sealed class SlowLoads : IDisposable
{
    private readonly CpuBackend _cpu = new(workers: 1);

    public SlowLoads() => Device = new Device(new Backend(this), DeviceKind.Cpu, "slow", "a test");

    public Device Device { get; }

    /// <summary>What loads append, before it is there.</summary>
    public Action Append { get; set; } = static () => { };

    /// <summary>What loads decode, before it is there.</summary>
    public Action Decode { get; set; } = static () => { };

    /// <summary>What loads prefill, before it is there.</summary>
    public Action Prefill { get; set; } = static () => { };

    /// <summary>As of a GPU's kernels.</summary>
    public bool InBackground { get; init; } = true;

    /// <summary>Kernels of append that were loaded, less those disposed.</summary>
    public int Appends { get; private set; }

    public int LiveAllocations => _cpu.LiveAllocations;

    /// <summary>Disposes the device.</summary>
    public void Dispose() => Device.Dispose();

    private sealed class Backend(SlowLoads loads) : FlashInfer.Backend
    {
        public override nint Allocate(long bytes) => loads._cpu.Allocate(bytes);

        public override void Free(nint address) => loads._cpu.Free(address);

        public override void CopyIn(nint destination, ReadOnlySpan<byte> source, CudaStream? stream) =>
            loads._cpu.CopyIn(destination, source, stream);

        public override void CopyOut(Span<byte> destination, nint source, CudaStream? stream) =>
            loads._cpu.CopyOut(destination, source, stream);

        public override void Copy(nint destination, nint source, long bytes, CudaStream? stream) =>
            loads._cpu.Copy(destination, source, bytes, stream);

        public override void Fill(nint destination, byte value, long bytes, CudaStream? stream) =>
            loads._cpu.Fill(destination, value, bytes, stream);

        public override void Synchronize() => loads._cpu.Synchronize();

        public override UploadBuffer CreateUploadBuffer(int capacityBytes) => loads._cpu.CreateUploadBuffer(capacityBytes);

        public override AttentionKernels LoadKernels(AttentionSpec spec) => new Kernels(loads, spec);

        public override void Dispose()
        {
            base.Dispose();
            loads._cpu.Dispose();
        }

        protected override MergeKernel LoadMergeKernel(DType dtype) => loads._cpu.MergeStates(dtype);
    }

    private sealed class Kernels : AttentionKernels
    {
        private readonly SlowLoads _loads;
        private readonly AttentionKernels _cpu;
        private readonly KernelSlot<AppendKernel> _append;

        public Kernels(SlowLoads loads, AttentionSpec spec)
            : base(spec)
        {
            _loads = loads;
            _cpu = loads._cpu.LoadKernels(spec);
            _append = new(() => new AppendKernel(loads));
        }

        protected override bool LoadsInBackground => _loads.InBackground;

        public override bool Append(in AppendParams args, in ListLaunch launch, CudaStream? stream)
        {
            _append.Get();
            return _cpu.Append(args, launch, stream);
        }

        public override void UpdatePageTable(in PageTableParams args, int updates, CudaStream? stream)
        {
            _append.Get();
            _cpu.UpdatePageTable(args, updates, stream);
        }

        public override void Dispose()
        {
            base.Dispose();
            _append.Dispose();
            _cpu.Dispose();
        }

        protected override bool Serves(KernelId kernel) => kernel.Architecture is null;

        protected override void LoadAppend() => _append.Get();

        protected override void LoadMergeStates() { }

        protected override DecodeKernel LoadDecode(int queryTokens, bool teamUnits)
        {
            _loads.Decode();
            return _cpu.Decode(queryTokens, teamUnits);
        }

        protected override PrefillKernel LoadPrefill(bool isPaged)
        {
            _loads.Prefill();
            return _cpu.Prefill(isPaged);
        }
    }

    private sealed class AppendKernel : IDisposable
    {
        private readonly SlowLoads _loads;

        public AppendKernel(SlowLoads loads)
        {
            loads.Append();
            loads.Appends++;
            _loads = loads;
        }

        public void Dispose() => _loads.Appends--;
    }
}
