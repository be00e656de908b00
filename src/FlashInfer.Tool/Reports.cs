using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.Json.Serialization;

namespace FlashInfer.Tool;

// The answers of the commands, as --json writes them.

internal sealed record FailureReport(string Error);

internal sealed record TriedReport(string Path, string Outcome);

internal sealed record DriverReport(string? CudaVersion, string? Problem, IReadOnlyList<TriedReport> Tried);

internal sealed record DeviceReport(int Ordinal, string Name, string? Architecture, int Multiprocessors, long MemoryBytes, string? Problem);

internal sealed record NvrtcReport(
    string? Path,
    string? Version,
    IReadOnlyList<string> Architectures,
    string? Problem,
    IReadOnlyList<TriedReport> Tried
);

internal sealed record CacheReport(string? Folder, int Kernels, long Bytes, string? Problem);

internal sealed record BundleReport(string Path, IReadOnlyList<string> Architectures, int Kernels, string? Problem);

/// <param name="On"><c>cuda</c> or <c>cpu</c>.</param>
/// <param name="Name">The device's name.</param>
/// <param name="Kernels">Which kernels, and where they come from.</param>
/// <param name="Reason">Why.</param>
internal sealed record RunsReport(string On, string Name, string Kernels, string Reason);

internal sealed record DoctorReport(
    string Version,
    string Runtime,
    string System,
    DriverReport Driver,
    IReadOnlyList<DeviceReport> Devices,
    NvrtcReport Nvrtc,
    CacheReport Cache,
    IReadOnlyList<BundleReport> Bundles,
    RunsReport Runs,
    string? Next
);

/// <param name="Unit">Unit and entry point.</param>
/// <param name="Architecture">The architecture.</param>
/// <param name="Where"><c>bundle</c>, <c>cache</c>, <c>compiled now</c> or <c>nowhere</c>.</param>
/// <param name="Registers">Registers of a thread; null, like what follows, when it is nowhere.</param>
/// <param name="LocalBytes">Local memory of a thread.</param>
/// <param name="SpillBytes">Bytes of registers that a thread stores for want of registers.</param>
/// <param name="StaticSharedBytes">Shared memory of a block that the code declares.</param>
/// <param name="DynamicSharedBytes">Shared memory of a block that the launch asks for.</param>
/// <param name="Threads">Threads of a block.</param>
/// <param name="BlocksPerMultiprocessor">Blocks that share a multiprocessor.</param>
/// <param name="WarpsPerMultiprocessor">Warps of these blocks.</param>
/// <param name="CubinBytes">The cubin's size.</param>
internal sealed record KernelReport(
    string Unit,
    string Architecture,
    string Where,
    int? Registers,
    int? LocalBytes,
    int? SpillBytes,
    int? StaticSharedBytes,
    int? DynamicSharedBytes,
    int? Threads,
    int? BlocksPerMultiprocessor,
    int? WarpsPerMultiprocessor,
    int? CubinBytes
);

internal sealed record ConfigReport(string Type, string Assembly, string Shape, IReadOnlyList<KernelReport> Kernels);

internal sealed record ModulesReport(IReadOnlyList<ConfigReport> Configs);

internal sealed record InspectReport(string Unit, string? Architecture, string Form, string Text);

/// <param name="Output">The bundle, or the cache's folder.</param>
/// <param name="Configs">Configurations.</param>
/// <param name="Architectures">The architectures.</param>
/// <param name="Kernels">Kernels in it.</param>
/// <param name="Compiled">Those that were compiled now.</param>
/// <param name="Bytes">The bundle's size, or that of the kernels in the cache.</param>
/// <param name="Seconds">How long it took.</param>
internal sealed record BuildReport(
    string Output,
    int Configs,
    IReadOnlyList<string> Architectures,
    int Kernels,
    int Compiled,
    long Bytes,
    double Seconds
)
{
    public void WriteTo(Output output) =>
        output.Line(
            string.Create(
                CultureInfo.InvariantCulture,
                $"{Output}: {Tool.Output.Count(Kernels, "kernel")} of {Tool.Output.Count(Configs, "configuration")} for {string.Join(", ", Architectures)}, {Tool.Output.Bytes(Bytes)}, {Compiled} compiled now, in {Seconds:0.0} s"
            )
        );
}

internal sealed record CacheEntryReport(string File, string? Unit, string? Architecture, string? Compiler, long Bytes, bool IsWhole);

internal sealed record CacheListReport(string Folder, IReadOnlyList<CacheEntryReport> Entries);

internal sealed record CacheClearReport(string Folder, int Removed, long Bytes);

/// <param name="Bench">Decode or prefill.</param>
/// <param name="Case">The case.</param>
/// <param name="BeforeUs">Microseconds in the first file.</param>
/// <param name="AfterUs">Microseconds in the second.</param>
/// <param name="Speedup">Above 1 when the second is faster.</param>
/// <param name="Noise">What the rounds of one run differed by, as a fraction.</param>
/// <param name="Verdict"><c>faster</c>, <c>slower</c> or <c>same</c>.</param>
internal sealed record ComparedReport(
    string Bench,
    string Case,
    double BeforeUs,
    double AfterUs,
    double Speedup,
    double Noise,
    string Verdict
);

internal sealed record CompareReport(double Speedup, int Unpaired, IReadOnlyList<ComparedReport> Cases);

[JsonSourceGenerationOptions(PropertyNamingPolicy = JsonKnownNamingPolicy.CamelCase, WriteIndented = true)]
[JsonSerializable(typeof(FailureReport))]
[JsonSerializable(typeof(DoctorReport))]
[JsonSerializable(typeof(ModulesReport))]
[JsonSerializable(typeof(InspectReport))]
[JsonSerializable(typeof(BuildReport))]
[JsonSerializable(typeof(CacheListReport))]
[JsonSerializable(typeof(CacheClearReport))]
[JsonSerializable(typeof(CompareReport))]
[JsonSerializable(typeof(JsonObject))]
internal sealed partial class ReportJson : JsonSerializerContext;
