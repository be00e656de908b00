using System.Security;
using FlashInfer.Observability;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Compilation;

/// <summary>
/// Compiled kernels on disk. No process ever waits for another: an entry is written under a name of its own and renamed into place, so a
/// reader sees a whole entry or none, and who loses a race has written the same bytes. A damaged entry counts as absent and is replaced.
/// Nothing here throws for what the disk does.
/// </summary>
internal sealed class KernelCache(string folder, ILogger log)
{
    /// <summary>How the names of entries end.</summary>
    public const string EntryExtension = ".cubin";

    /// <summary>How names end while an entry is written.</summary>
    public const string TemporaryExtension = ".tmp";

    // File systems allow names of 255 bytes; the rest is for architecture, key and the suffix of a temporary file.
    private const int LongestUnitName = 120;
    private const int KeyDigits = 16;

    private static readonly TimeSpan StaleAge = TimeSpan.FromDays(1);

    private int cleaned;
    private int warned;

    /// <summary>The folder.</summary>
    public string Folder { get; } = folder;

    /// <summary>The folder when none is given: a variable of ours, else the user's cache folder; null when the user has none.</summary>
    public static string? DefaultFolder(Func<string, string?> variable, string userProfile, bool isWindows)
    {
        if (variable("FLASHINFER_CACHE_DIR") is { Length: > 0 } chosen)
        {
            return chosen;
        }

        string? parent;
        if (isWindows)
        {
            parent = variable("LOCALAPPDATA") is { Length: > 0 } local ? local : null;
        }
        else
        {
            // The XDG specification tells programs to ignore a relative path here.
            bool isAbsolute = variable("XDG_CACHE_HOME") is ['/', ..];
            parent =
                isAbsolute ? variable("XDG_CACHE_HOME")
                : userProfile.Length > 0 ? Path.Combine(userProfile, ".cache")
                : null;
        }

        return parent is null ? null : Path.Combine(parent, "flashinfer-net");
    }

    /// <summary>The file of an entry: readable first, unique by the key's beginning. The whole key is inside.</summary>
    public string PathOf(string unit, string architecture, ReadOnlySpan<byte> key)
    {
        string name = unit.Length <= LongestUnitName ? unit : unit[..LongestUnitName];
        string digits = Convert.ToHexStringLower(key)[..KeyDigits];
        return Path.Combine(Folder, $"{name}-{architecture}-{digits}{EntryExtension}");
    }

    /// <summary>Reads an entry; null when there is none that is whole and ours.</summary>
    public static KernelCacheEntry? Read(string path, ReadOnlySpan<byte> key)
    {
        try
        {
            // The common miss should not cost an exception.
            if (!File.Exists(path))
            {
                return null;
            }

            return KernelCacheFile.TryDecode(File.ReadAllBytes(path), key, out KernelCacheEntry? entry) ? entry : null;
        }
        catch (Exception e) when (IsDiskFailure(e))
        {
            return null;
        }
    }

    /// <summary>Publishes an entry. A folder that cannot be written is reported once and costs a compile in every process.</summary>
    public void Write(string path, ReadOnlySpan<byte> key, KernelCacheEntry entry)
    {
        string temporary = $"{path}.{Environment.ProcessId}-{Guid.NewGuid():N}{TemporaryExtension}";
        try
        {
            Directory.CreateDirectory(Folder);
            CleanOnce();
            using (FileStream file = new(temporary, FileMode.CreateNew, FileAccess.Write, FileShare.None, bufferSize: 0))
            {
                file.Write(KernelCacheFile.Encode(key, entry));
            }

            File.Move(temporary, path, overwrite: true);
        }
        catch (Exception e) when (IsDiskFailure(e))
        {
            Delete(temporary);

            // On Windows a rename fails while another process reads the entry; a whole entry is there then, and nothing is lost.
            if (Read(path, key) is null)
            {
                WarnOnce(e.Message);
            }
        }
    }

    private static bool IsDiskFailure(Exception e) =>
        e is IOException or UnauthorizedAccessException or SecurityException or NotSupportedException or ArgumentException;

    private static void Delete(string path)
    {
        try
        {
            File.Delete(path);
        }
        catch (Exception e) when (IsDiskFailure(e))
        {
            // It is found again as a stale file.
        }
    }

    /// <summary>Removes what processes left that died while writing.</summary>
    private void CleanOnce()
    {
        if (Interlocked.Exchange(ref cleaned, 1) != 0)
        {
            return;
        }

        foreach (string path in Directory.EnumerateFiles(Folder, $"*{EntryExtension}.*{TemporaryExtension}"))
        {
            if (DateTime.UtcNow - File.GetLastWriteTimeUtc(path) > StaleAge)
            {
                Delete(path);
            }
        }
    }

    private void WarnOnce(string reason)
    {
        if (Interlocked.Exchange(ref warned, 1) == 0)
        {
            log.CacheUnwritable(Folder, reason);
        }
    }
}
