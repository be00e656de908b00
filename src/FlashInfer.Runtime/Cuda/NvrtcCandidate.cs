namespace FlashInfer.Cuda;

/// <summary>An NVRTC that the search found, not loaded yet.</summary>
/// <param name="Path">The library file, or a bare name for the system's loader.</param>
/// <param name="Builtins">The builtins library of the same minor version; null for a bare name.</param>
/// <param name="Version">The version that the file names state, such as 12.4; null for a bare name.</param>
/// <param name="Identity">
/// What stands for this NVRTC in cache keys: name, size and write time of the real file, so that a cache hit needs no loaded library.
/// Null for a bare name, whose version is known only after loading.
/// </param>
internal sealed record NvrtcCandidate(string Path, string? Builtins, Version? Version, string? Identity);
