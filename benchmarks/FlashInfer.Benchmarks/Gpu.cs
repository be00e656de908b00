using System.Runtime.InteropServices;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Benchmarks;

/// <summary>Timing and ceilings on a GPU.</summary>
internal sealed class Gpu : IDisposable
{
    private readonly Device _device;
    private readonly CudaModule _module;
    private readonly CudaFunction _read;
    private readonly CudaFunction _copy;
    private readonly CudaFunction _fill;
    private readonly CudaEvent _start;
    private readonly CudaEvent _stop;

    public Gpu(Device device)
    {
        _device = device;
        using Stream source = typeof(Gpu).Assembly.GetManifestResourceStream("bench.cu")!;
        byte[] text = new byte[source.Length];
        source.ReadExactly(text);
        CompiledKernel cubin = new KernelCompiler().Compile(new TranslationUnit("fi_bench", text), Context.Architecture);
        _module = CudaModule.Load(Context, cubin.Cubin.Span);
        _read = _module.GetFunction("fi_bench_read");
        _copy = _module.GetFunction("fi_bench_copy");
        _fill = _module.GetFunction("fi_bench_fill");
        _start = new CudaEvent(Context, timing: true);
        _stop = new CudaEvent(Context, timing: true);
    }

    private CudaContext Context => _device.Cuda!;

    private CudaStream Stream => _device.Stream!;

    /// <summary>The best of 2, 4, 8, 16 blocks per SM over 8 GB, each the median of 20.</summary>
    public Ceilings MeasureCeilings()
    {
        const int Elements = 2_000_000_000;
        using DeviceTensor<int> data = _device.Allocate<int>(Elements);
        using DeviceTensor<int> sink = _device.Allocate<int>(1);
        Fill(data.View.Address, Elements, 1);
        double read = 0;
        double copy = 0;
        foreach (int perSm in (int[])[2, 4, 8, 16])
        {
            CudaExtent grid = new(Context.MultiprocessorCount * perSm);
            ReadParams reading = new(data.View.Address, Elements / 4, sink.View.Address);
            double us = Median(20, () => _read.Launch(reading, grid, new CudaExtent(512), 0, Stream));
            read = Math.Max(read, Elements * 4.0 / us / 1e3);
            CopyParams copying = new(data.View.Address, data.View.Rows(Elements / 2, Elements / 2).Address, Elements / 8);
            us = Median(20, () => _copy.Launch(copying, grid, new CudaExtent(512), 0, Stream));
            copy = Math.Max(copy, Elements * 4.0 / us / 1e3);
        }

        return new Ceilings(read, copy);
    }

    /// <summary>Fills memory with normal bf16 numbers.</summary>
    public void Fill(nint address, long pairs, uint seed) =>
        _fill.Launch(new FillParams(address, pairs, seed), new CudaExtent(Context.MultiprocessorCount * 8), new CudaExtent(256), 0, Stream);

    /// <summary>Median microseconds of a piece of queued work, timed with events.</summary>
    public double Median(int samples, Action work)
    {
        double[] times = new double[samples];
        work();
        work();
        for (int i = 0; i < samples; i++)
        {
            _start.Record(Stream);
            work();
            _stop.Record(Stream);
            _stop.Synchronize();
            times[i] = CudaEvent.ElapsedMilliseconds(_start, _stop) * 1e3;
        }

        Array.Sort(times);
        return times[samples / 2];
    }

    /// <summary>Records work into a graph and gives the median microseconds of a replay.</summary>
    public double MedianOfGraph(int samples, Action work)
    {
        Stream.BeginCapture();
        work();
        using CudaGraph graph = Stream.EndCapture();
        return Median(samples, () => graph.Launch(Stream));
    }

    public void Dispose()
    {
        _device.Synchronize();
        _start.Dispose();
        _stop.Dispose();
        _module.Dispose();
    }

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct ReadParams(nint Data, long Count, nint Sink);

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct CopyParams(nint From, nint To, long Count);

    [StructLayout(LayoutKind.Sequential)]
    private readonly record struct FillParams(nint Data, long Count, uint Seed);
}
