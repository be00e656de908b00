using System.Runtime.InteropServices;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Measurement;

/// <summary>Timing and ceilings on a GPU.</summary>
internal sealed class Gpu : Rig
{
    // As in bench.cu.
    private const int MathThreads = 256;
    private const int MathSteps = 2000;

    private readonly Device _device;
    private readonly CudaModule _module;
    private readonly CudaFunction _read;
    private readonly CudaFunction _copy;
    private readonly CudaFunction _fill;
    private readonly CudaFunction _math;
    private readonly double _mathFlops;
    private readonly CudaEvent _start;
    private readonly CudaEvent _stop;

    public Gpu(Device device)
    {
        _device = device;
        CompiledKernel cubin = new KernelCompiler().Compile(Unit(), Context.Architecture);
        _module = CudaModule.Load(Context, cubin.Cubin.Span);
        _read = _module.GetFunction("fi_bench_read");
        _copy = _module.GetFunction("fi_bench_copy");
        _fill = _module.GetFunction("fi_bench_fill");
        _math = _module.GetFunction("fi_bench_math");
        _mathFlops = MathFlops();
        _start = new CudaEvent(Context, timing: true);
        _stop = new CudaEvent(Context, timing: true);
    }

    /// <summary>The kernels that measuring needs beside the product's.</summary>
    public static TranslationUnit Unit()
    {
        using Stream source = typeof(Gpu).Assembly.GetManifestResourceStream("bench.cu")!;
        byte[] text = new byte[source.Length];
        source.ReadExactly(text);
        return new TranslationUnit("fi_bench", text);
    }

    /// <inheritdoc/>
    public override Device Device => _device;

    /// <inheritdoc/>
    public override long RotatedBytes => Math.Min(4L << 30, Context.TotalMemory / 8);

    private CudaContext Context => _device.Cuda!;

    private CudaStream Stream => _device.Stream!;

    /// <summary>Memory: the best of 2, 4, 8, 16 blocks per SM over 8 GB, or a quarter of a smaller memory. Matrix instructions: of registers and shared memory alone.</summary>
    public override Ceilings MeasureCeilings()
    {
        int elements = (int)Math.Min(2_000_000_000, Context.TotalMemory / 4 / sizeof(int)) / 16 * 16;
        using DeviceTensor<int> data = _device.Allocate<int>(elements);
        using DeviceTensor<int> sink = _device.Allocate<int>(1);
        Fill(data.View.Address, elements, 1, DType.BFloat16);
        double read = 0;
        double copy = 0;
        double math = 0;
        foreach (int perSm in (int[])[2, 4, 8, 16])
        {
            CudaExtent grid = new(Context.MultiprocessorCount * perSm);
            ReadParams reading = new(data.View.Address, elements / 4, sink.View.Address);
            double us = Time(() => _read.Launch(reading, grid, new CudaExtent(512), 0, Stream)).Us;
            read = Math.Max(read, elements * 4.0 / us / 1e3);
            CopyParams copying = new(data.View.Address, data.View.Rows(elements / 2, elements / 2).Address, elements / 8);
            us = Time(() => _copy.Launch(copying, grid, new CudaExtent(512), 0, Stream)).Us;
            copy = Math.Max(copy, elements * 4.0 / us / 1e3);
        }

        foreach (int perSm in (int[])[1, 2, 4])
        {
            CudaExtent grid = new(Context.MultiprocessorCount * perSm);
            double us = Time(() =>
                _math.Launch(new MathParams(sink.View.Address, MathSteps), grid, new CudaExtent(MathThreads), 0, Stream)
            ).Us;
            math = Math.Max(math, grid.X * _mathFlops * MathSteps / us / 1e6);
        }

        return new Ceilings(read, copy) { MathTflops = math };
    }

    /// <summary>Fills a tensor with normal numbers.</summary>
    public override void Fill(TensorView view, uint seed) =>
        Fill(view.Address, view.Shape.Elements * view.Dtype.Size() / 4, seed, view.Dtype);

    private void Fill(nint address, long words, uint seed, DType dtype) =>
        _fill.Launch(
            new FillParams(address, words, seed, (int)dtype),
            new CudaExtent(Context.MultiprocessorCount * 8),
            new CudaExtent(256),
            0,
            Stream
        );

    /// <summary>Times a piece of queued work with events: five rounds, each the median of as many runs as take about 0.1 s.</summary>
    public Timing Time(Action work)
    {
        work();
        int samples = (int)Math.Clamp(100_000 / Once(work), 5, 20);
        return Timing.OfFive(() => Round(work, samples));
    }

    /// <summary>Records work into a graph and times its replays.</summary>
    public Timing TimeGraph(Action work)
    {
        using CudaGraph graph = Record(work);
        return Time(() => graph.Launch(Stream));
    }

    /// <summary>Records work into a graph.</summary>
    public CudaGraph Record(Action work)
    {
        Stream.BeginCapture();
        work();
        return Stream.EndCapture();
    }

    /// <summary>One round: the median of the microseconds that some runs of queued work take.</summary>
    public double Round(Action work, int samples)
    {
        double[] times = new double[samples];
        for (int i = 0; i < samples; i++)
        {
            times[i] = Once(work);
        }

        return Timing.Median(times);
    }

    /// <summary>Queues work and waits for it; microseconds between events before and behind it.</summary>
    public double Once(Action work)
    {
        _start.Record(Stream);
        work();
        _stop.Record(Stream);
        _stop.Synchronize();
        return CudaEvent.ElapsedMilliseconds(_start, _stop) * 1e3;
    }

    /// <summary>The device with the kernels that every GPU has; null where it has no others.</summary>
    public Device? OpenPortable()
    {
        string architecture = $"sm_{Context.ComputeCapabilityMajor}{Context.ComputeCapabilityMinor}";
        return Context.Architecture == architecture
            ? null
            : Device.FromCuda(Context, _device.Stream, new DeviceOptions { Architecture = architecture });
    }

    /// <inheritdoc/>
    public override IRound Rounds(int sets, Action<int> launch) => new GraphRound(_device, this, sets, launch);

    /// <inheritdoc/>
    public override void Dispose()
    {
        _device.Synchronize();
        _start.Dispose();
        _stop.Dispose();
        _module.Dispose();
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct ReadParams(nint Data, long Count, nint Sink);

    /// <summary>Operations of one block's step: the cubin knows which instructions it has.</summary>
    private double MathFlops()
    {
        long flops = 0;
        _module.ReadGlobal("fi_bench_math_flops", MemoryMarshal.AsBytes(new Span<long>(ref flops)));
        return flops;
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct MathParams(nint Sink, int Steps);

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct CopyParams(nint From, nint To, long Count);

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct FillParams(nint Data, long Count, uint Seed, int Dtype);
}
