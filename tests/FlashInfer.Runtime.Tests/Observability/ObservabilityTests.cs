using System.Diagnostics;
using System.Diagnostics.Metrics;
using FlashInfer.Compilation;
using FlashInfer.Observability;
using FlashInfer.Runtime.Tests.Compilation;
using FlashInfer.Tests;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Runtime.Tests.Observability;

/// <summary>What is measured, traced and logged. Alone in the process, since a meter hears of every test's work.</summary>
[Collection("Allocations")]
public sealed class ObservabilityTests
{
    private static readonly AttentionSpec s_spec = new(4, 2, 64, 4, DType.Float16);

    [Fact]
    public void A_step_counts_its_launches_and_times_its_plans()
    {
        using Device device = Device.OpenCpu();
        using Measurements measured = new();
        using PagedKvCache cache = new(device, s_spec, layers: 3, pages: 20);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        using BatchPrefillWithPagedKvCache prefill = new(cache);
        using BatchPrefillWithRaggedKvCache ragged = new(device, s_spec);

        Step(cache, decode, prefill, ragged);

        Assert.Equal(3, Launches("cpu_append"));
        Assert.Equal(3, Launches("cpu_decode"));
        Assert.Equal(2, Launches("cpu_prefill"));
        Assert.Equal(1, Launches("cpu_update_page_table"));
        foreach (string wrapper in (string[])[Name(decode), Name(prefill), Name(ragged)])
        {
            double seconds = Assert.Single(measured.Of("flashinfer.plan.duration", "flashinfer.wrapper", wrapper));
            Assert.InRange(seconds, 1e-9, 60);
        }

        int Launches(string kernel) => measured.Of("flashinfer.kernel.launches", "flashinfer.kernel", kernel).Count;
    }

    [Fact]
    public void Pages_are_those_of_the_caches_that_are_there()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 3 });
        using PagedKvCache first = new(device, s_spec, layers: 1, pages: 20);
        first.BeginForward(first.NewSequence(), tokens: 9);
        using (PagedKvCache second = new(device, s_spec, layers: 1, pages: 5))
        {
            Assert.Equal((3, 22), Pages());
        }

        Assert.Equal((3, 17), Pages());

        (double Used, double Free) Pages()
        {
            using Measurements measured = new();
            measured.Observe();
            return (
                measured.Of("flashinfer.cache.pages", "flashinfer.page.state", "used").Sum(),
                measured.Of("flashinfer.cache.pages", "flashinfer.page.state", "free").Sum()
            );
        }
    }

    [Fact]
    public void The_CPU_keeps_no_memory_that_is_freed()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        device.Allocate<float>(1000).Dispose();
        device.TrimMemory();
        using Measurements measured = new();
        measured.Observe();

        Assert.Empty(measured.Of("flashinfer.device.memory"));
    }

    [SkippableFact]
    public void A_kernel_s_way_is_measured_and_traced()
    {
        using TemporaryFolder folder = new();
        TranslationUnit unit = TestUnits.Tiny(name: "fi_traced");
        List<Activity> activities = [];
        using ActivityListener listener = Listen(activities.Add);
        using Measurements measured = new();

        TestNvrtc.Compiler(folder.Path).Compile(unit, "sm_80");
        TestNvrtc.Compiler(folder.Path).Compile(unit, "sm_80");
        KernelCompilerOptions nowhere = new() { NvrtcPath = "/nowhere", UseCache = false };
        KernelCompiler compiler = new(nowhere, TestUnits.Headers(), new FakeHost());
        Assert.Throws<KernelCompilationException>(() => compiler.Compile(unit, "sm_80"));

        Assert.Single(measured.Of("flashinfer.kernel.load.duration", "flashinfer.kernel.origin", "compiled"));
        Assert.Single(measured.Of("flashinfer.kernel.load.duration", "flashinfer.kernel.origin", "cache"));
        Assert.Single(measured.Of("flashinfer.kernel.load.duration", "error.type", nameof(KernelCompilationException)));
        Assert.Equal(
            ["flashinfer.compile", "flashinfer.load_kernel", "flashinfer.load_kernel", "flashinfer.load_kernel"],
            activities.Select(static activity => activity.OperationName)
        );
        Assert.Same(activities[1], activities[0].Parent);
        Assert.Equal([null, "compiled", "cache", null], activities.Select(static a => a.GetTagItem("flashinfer.kernel.origin")));
        Assert.All(activities, static activity => Assert.Equal("fi_traced", activity.GetTagItem("flashinfer.kernel")));
        Assert.Equal(ActivityStatusCode.Error, activities[3].Status);
    }

    [Fact]
    public void A_bundle_is_traced_when_it_is_opened()
    {
        using TemporaryFolder folder = new();
        KernelBundle.Write(folder.File("App.fikernels"), [], KernelHeaders.Embedded);
        List<Activity> activities = [];
        using ActivityListener listener = Listen(activities.Add);
        KernelCompiler compiler = new(
            new KernelCompilerOptions
            {
                BundleDirectory = folder.Path,
                UseCache = false,
                NvrtcPath = "/nowhere",
            }
        );

        Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80"));

        Activity opened = Assert.Single(activities, static activity => activity.OperationName == "flashinfer.open_bundle");
        Assert.Equal(folder.File("App.fikernels"), opened.GetTagItem("flashinfer.bundle"));
    }

    [Fact]
    public void Somebody_else_s_activity_is_left_alone()
    {
        using Activity mine = new Activity("mine").Start();
        KernelCompiler compiler = new(
            new KernelCompilerOptions
            {
                UseBundles = false,
                UseCache = false,
                NvrtcPath = "/nowhere",
            }
        );

        Assert.Throws<KernelCompilationException>(() => compiler.Compile(TestUnits.Tiny(), "sm_80"));

        Assert.Empty(mine.TagObjects);
        Assert.Equal(ActivityStatusCode.Unset, mine.Status);
    }

    [Fact]
    public void The_device_and_in_debugging_each_plan_are_logged()
    {
        using FakeLog log = new();
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2, LoggerFactory = log });
        using PagedKvCache cache = new(device, s_spec, layers: 1, pages: 20);
        using BatchDecodeWithPagedKvCache decode = new(cache);

        decode.Plan([cache.NewSequence()]);

        Assert.Collection(
            log.Entries,
            opened =>
                Assert.Equal(
                    new("FlashInfer.Device", LogLevel.Information, "DeviceOpened", $"opened {device}: the CPU was asked for"),
                    opened
                ),
            planned =>
            {
                Assert.Equal(("FlashInfer.Device", LogLevel.Debug, "Planned"), (planned.Category, planned.Level, planned.Event));
                Assert.Matches(
                    $@"^BatchDecodeWithPagedKvCache planned in \d+\.\d us: cpu_decode_v\d+ on 2 threads: 1 sequence",
                    planned.Message
                );
            }
        );
    }

    [Fact]
    public void Counters_that_are_listened_to_allocate_nothing()
    {
        using MeterListener listener = new();
        long heard = 0;
        listener.InstrumentPublished = static (instrument, listener) => listener.EnableMeasurementEvents(instrument);
        listener.SetMeasurementEventCallback<long>((_, value, _, _) => heard += value);
        listener.Start();
        Telemetry.Launched("warm");

        long before = GC.GetAllocatedBytesForCurrentThread();
        for (int i = 0; i < 1000; i++)
        {
            Telemetry.Launched("kernel");
        }

        Assert.Equal(before, GC.GetAllocatedBytesForCurrentThread());
        Assert.Equal(1001, heard);
    }

    [Fact]
    public void Nobody_listening_costs_nanoseconds()
    {
        const int Calls = 100_000;
        using Device device = Device.OpenCpu();
        TimeSpan best = TimeSpan.MaxValue;
        long started = 0;
        for (int round = 0; round < 20; round++)
        {
            long start = Stopwatch.GetTimestamp();
            for (int i = 0; i < Calls; i++)
            {
                Telemetry.Launched("kernel");
                started |= Telemetry.StartPlan(device.Log);
            }

            TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
            best = elapsed < best ? elapsed : best;
        }

        Assert.Equal(0, started);
        Assert.True(best / Calls < TimeSpan.FromMicroseconds(0.5), $"{best.TotalNanoseconds / Calls:F1} ns");
    }

    private static string Name(object wrapper) => wrapper.GetType().Name;

    private static ActivityListener Listen(Action<Activity> stopped)
    {
        ActivityListener listener = new()
        {
            ShouldListenTo = static source => source.Name == FlashInferTelemetry.ActivitySourceName,
            Sample = static (ref ActivityCreationOptions<ActivityContext> _) => ActivitySamplingResult.AllDataAndRecorded,
            ActivityStopped = stopped,
        };
        ActivitySource.AddActivityListener(listener);
        return listener;
    }

    /// <summary>A step of three layers by decode, then one launch of each prefill.</summary>
    private static void Step(
        PagedKvCache cache,
        BatchDecodeWithPagedKvCache decode,
        BatchPrefillWithPagedKvCache prefill,
        BatchPrefillWithRaggedKvCache ragged
    )
    {
        Device device = cache.Device;
        using DeviceTensor<Half> query = device.Allocate<Half>(1, 4, 64);
        using DeviceTensor<Half> output = device.Allocate<Half>(1, 4, 64);
        using DeviceTensor<Half> fresh = device.Allocate<Half>(1, 2, 64);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, tokens: 1);
        decode.Plan([sequence]);
        for (int layer = 0; layer < cache.Layers; layer++)
        {
            decode.Append(layer, fresh.View, fresh.View);
            decode.Run(layer, query.View, output.View);
        }

        prefill.Plan([sequence]);
        prefill.Run(0, query.View, output.View);
        ragged.Plan([0, 1], [0, 1]);
        ragged.Run(query.View, fresh.View, fresh.View, output.View);
        cache.EndForward(sequence);
    }
}
