using System.Diagnostics;
using FlashInfer.Observability;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Compilation;

/// <summary>
/// The bundles of a folder, opened when a kernel is first asked for. One that cannot be used is told of and passed over: what it would have
/// held is compiled then. Safe to use from any thread.
/// </summary>
/// <param name="folder">The folder.</param>
/// <param name="headers">The headers of this runtime: kernels compiled from others are not found.</param>
/// <param name="log">Told of a bundle that cannot be used.</param>
internal sealed class KernelBundles(string folder, KernelHeaders headers, ILogger log)
{
    private readonly Lazy<IReadOnlyList<KernelBundle>> _bundles = new(() => OpenAll(folder, log));

    /// <summary>Whether a bundle holds kernels for an architecture.</summary>
    public bool Serve(string architecture) => _bundles.Value.Any(bundle => bundle.Entries.Any(entry => entry.Architecture == architecture));

    /// <summary>A kernel compiled from exactly this unit and these headers for exactly this architecture; null when no bundle has it.</summary>
    public (KernelBundle Bundle, KernelBundleEntry Entry, byte[] Cubin)? Find(TranslationUnit unit, string architecture)
    {
        // Most programs have no bundle, and hash nothing.
        if (_bundles.Value.Count == 0)
        {
            return null;
        }

        byte[] key = KernelBundle.KeyOf(unit, headers, architecture);
        foreach (KernelBundle bundle in _bundles.Value)
        {
            KernelBundleEntry? entry = bundle.Entries.FirstOrDefault(entry => entry.Key.AsSpan().SequenceEqual(key));
            if (entry is null)
            {
                continue;
            }

            try
            {
                return (bundle, entry, bundle.Read(entry));
            }
            catch (Exception e) when (IsUnusable(e))
            {
                Warn(log, bundle.Path, e);
            }
        }

        return null;
    }

    /// <summary>What the bundles hold, for the message that a kernel is not among it; null without bundles.</summary>
    public string? Describe() =>
        _bundles.Value.Count == 0
            ? null
            : string.Join("; ", _bundles.Value.Select(static bundle => $"{bundle.Path} for {string.Join(", ", Architectures(bundle))}"));

    private static IEnumerable<string> Architectures(KernelBundle bundle) =>
        bundle.Entries.Select(static entry => entry.Architecture).Distinct().DefaultIfEmpty("no architecture");

    private static List<KernelBundle> OpenAll(string folder, ILogger log)
    {
        List<KernelBundle> opened = [];
        try
        {
            string[] paths = Directory.GetFiles(folder, $"*{KernelBundle.Extension}");
            Array.Sort(paths, StringComparer.Ordinal);
            foreach (string path in paths)
            {
                using Activity? activity = Telemetry.StartOpenBundle(path);
                try
                {
                    opened.Add(KernelBundle.Open(path));
                }
                catch (Exception e) when (IsUnusable(e))
                {
                    Warn(log, path, e);
                }
            }
        }
        catch (Exception e) when (IsUnusable(e))
        {
            // A folder that is not there, or may not be listed, has no bundles.
        }

        return opened;
    }

    private static bool IsUnusable(Exception e) => e is InvalidDataException or IOException or UnauthorizedAccessException;

    private static void Warn(ILogger log, string path, Exception e) =>
        log.BundleUnusable(path, e is InvalidDataException ? $"{e.Message}. Build the program again." : $"cannot be read ({e.Message}).");
}
