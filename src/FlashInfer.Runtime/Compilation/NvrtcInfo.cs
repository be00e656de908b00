using FlashInfer.Cuda;

namespace FlashInfer.Compilation;

/// <summary>The NVRTC that a compiler uses, or why it has none.</summary>
/// <param name="Path">The library; null when none can be used.</param>
/// <param name="Version">The version that it reports; null when none can be used.</param>
/// <param name="Architectures">Compute capabilities that it compiles for, such as 80 and 90.</param>
/// <param name="Trace">Every step of the search.</param>
public sealed record NvrtcInfo(string? Path, Version? Version, IReadOnlyList<int> Architectures, IReadOnlyList<NativeSearchStep> Trace);
