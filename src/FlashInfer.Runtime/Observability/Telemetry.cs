using System.Diagnostics;
using System.Diagnostics.Metrics;
using System.Runtime.CompilerServices;
using FlashInfer.Compilation;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Observability;

/// <summary>
/// The instruments and activities of the process, described in docs/observability.md. Whoever measures asks first whether anybody
/// listens: without a listener a launch or a plan costs one comparison and no memory.
/// </summary>
internal static class Telemetry
{
    private const string Kernel = "flashinfer.kernel";
    private const string Origin = "flashinfer.kernel.origin";
    private const string Architecture = "flashinfer.architecture";
    private const string Wrapper = "flashinfer.wrapper";
    private const string DeviceTag = "flashinfer.device";
    private const string PageState = "flashinfer.page.state";
    private const string MemoryState = "flashinfer.memory.state";

    private static readonly string? s_version = typeof(Telemetry).Assembly.GetName().Version?.ToString(3);
    private static readonly ActivitySource s_activities = new(FlashInferTelemetry.ActivitySourceName, s_version);
    private static readonly Meter s_meter = new(FlashInferTelemetry.MeterName, s_version);

    private static readonly Counter<long> s_launches = s_meter.CreateCounter<long>(
        "flashinfer.kernel.launches",
        "{launch}",
        "Kernels that were queued, or recorded into a CUDA graph."
    );
    private static readonly Counter<long> s_graphLaunches = s_meter.CreateCounter<long>(
        "flashinfer.graph.launches",
        "{launch}",
        "CUDA graphs that were queued."
    );
    private static readonly Histogram<double> s_plans = s_meter.CreateHistogram<double>(
        "flashinfer.plan.duration",
        "s",
        "Time of a Plan call on the host.",
        advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = [2e-6, 5e-6, 1e-5, 2e-5, 5e-5, 1e-4, 2e-4, 5e-4, 1e-3, 1e-2] }
    );
    private static readonly Histogram<double> s_loads = s_meter.CreateHistogram<double>(
        "flashinfer.kernel.load.duration",
        "s",
        "Time to get a kernel from a bundle, from the cache or by compiling it.",
        advice: new InstrumentAdvice<double> { HistogramBucketBoundaries = [0.001, 0.01, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30] }
    );

    // Weak: what its owner forgot is not kept alive for the sake of being counted.
    private static readonly ConditionalWeakTable<PagedKvCache, object?> s_caches = [];
    private static readonly ConditionalWeakTable<Device, object?> s_devices = [];

    static Telemetry()
    {
        s_meter.CreateObservableUpDownCounter("flashinfer.cache.pages", Pages, "{page}", "Pages of the paged KV caches, used and free.");
        s_meter.CreateObservableUpDownCounter("flashinfer.device.memory", Memory, "By", "Memory of the GPUs' pools, used and kept.");
    }

    /// <summary>Counts a launch.</summary>
    public static void Launched(string kernel)
    {
        if (s_launches.Enabled)
        {
            s_launches.Add(1, new KeyValuePair<string, object?>(Kernel, kernel));
        }
    }

    /// <summary>Counts a launch of a graph.</summary>
    public static void GraphLaunched() => s_graphLaunches.Add(1);

    /// <summary>When a plan begins; 0 when nobody wants to know.</summary>
    public static long StartPlan(ILogger log) => s_plans.Enabled || log.IsEnabled(LogLevel.Debug) ? Stopwatch.GetTimestamp() : 0;

    /// <summary>Records a plan.</summary>
    /// <param name="start">What <see cref="StartPlan"/> gave.</param>
    /// <param name="wrapper">The wrapper's name.</param>
    /// <param name="plan">The wrapper, which is asked to explain its plan when that is logged.</param>
    /// <param name="log">The device's log.</param>
    public static void EndPlan(long start, string wrapper, IExplainsPlan plan, ILogger log)
    {
        if (start == 0)
        {
            return;
        }

        TimeSpan elapsed = Stopwatch.GetElapsedTime(start);
        s_plans.Record(elapsed.TotalSeconds, new KeyValuePair<string, object?>(Wrapper, wrapper));
        if (log.IsEnabled(LogLevel.Debug))
        {
            log.Planned(wrapper, elapsed.TotalMicroseconds, plan.Explain());
        }
    }

    /// <summary>Begins the loading of a kernel; null when nobody listens.</summary>
    public static Activity? StartLoad(string unit, string architecture) =>
        s_activities.StartActivity("flashinfer.load_kernel")?.SetTag(Kernel, unit).SetTag(Architecture, architecture);

    /// <summary>Begins a compile.</summary>
    public static Activity? StartCompile(string unit, string architecture, Version compiler) =>
        s_activities
            .StartActivity("flashinfer.compile")
            ?.SetTag(Kernel, unit)
            .SetTag(Architecture, architecture)
            .SetTag("flashinfer.compiler", $"NVRTC {compiler}");

    /// <summary>Begins the opening of a bundle.</summary>
    public static Activity? StartOpenBundle(string path) =>
        s_activities.StartActivity("flashinfer.open_bundle")?.SetTag("flashinfer.bundle", path);

    /// <summary>Records that a kernel was loaded.</summary>
    public static void Loaded(Activity? activity, string architecture, KernelOrigin origin, TimeSpan elapsed)
    {
        string from = Word(origin);
        activity?.SetTag(Origin, from);
        s_loads.Record(elapsed.TotalSeconds, new(Origin, from), new(Architecture, architecture));
    }

    /// <summary>Records that a kernel could not be loaded.</summary>
    public static void LoadFailed(Activity? activity, string architecture, Exception failure, TimeSpan elapsed)
    {
        string type = failure.GetType().Name;
        activity?.SetStatus(ActivityStatusCode.Error, failure.Message).SetTag("error.type", type);
        s_loads.Record(elapsed.TotalSeconds, new("error.type", type), new(Architecture, architecture));
    }

    /// <summary>Counts the pages of a cache from now on.</summary>
    public static void Track(PagedKvCache cache) => s_caches.Add(cache, null);

    /// <summary>No longer counts the pages of a cache.</summary>
    public static void Forget(PagedKvCache cache) => s_caches.Remove(cache);

    /// <summary>Measures the memory of a device from now on.</summary>
    public static void Track(Device device) => s_devices.Add(device, null);

    /// <summary>No longer measures the memory of a device.</summary>
    public static void Forget(Device device) => s_devices.Remove(device);

    // Devices of one GPU share its pool.
    private static IEnumerable<Measurement<long>> Memory()
    {
        foreach (Device device in s_devices.Select(static entry => entry.Key).DistinctBy(static device => device.ToString()))
        {
            if (device.Memory is { } memory)
            {
                yield return new(memory.Used, new(DeviceTag, device.ToString()), new(MemoryState, "used"));
                yield return new(memory.Kept, new(DeviceTag, device.ToString()), new(MemoryState, "kept"));
            }
        }
    }

    private static IEnumerable<Measurement<long>> Pages()
    {
        foreach (var caches in s_caches.Select(static entry => entry.Key).GroupBy(static cache => cache.Device.ToString()))
        {
            long total = 0;
            long free = 0;
            foreach (PagedKvCache cache in caches)
            {
                total += cache.TotalPages;
                free += cache.FreePages;
            }

            yield return new(total - free, new(DeviceTag, caches.Key), new(PageState, "used"));
            yield return new(free, new(DeviceTag, caches.Key), new(PageState, "free"));
        }
    }

    private static string Word(KernelOrigin origin) =>
        origin switch
        {
            KernelOrigin.Bundle => "bundle",
            KernelOrigin.Cache => "cache",
            _ => "compiled",
        };
}
