using System.Reflection;
using System.Security.Cryptography;
using System.Text;

namespace FlashInfer.Compilation;

/// <summary>
/// The CUDA headers that units include, in the form NVRTC takes them: zero-terminated texts and names in memory that does not move.
/// NVRTC looks an <c>#include</c> up by the name as written, also inside a header, so every include is written from the root of
/// <c>kernels/</c>.
/// </summary>
internal sealed class KernelHeaders
{
    private const string Extension = ".cuh";

    private static readonly Lazy<KernelHeaders> LazyEmbedded = new(() => EmbeddedIn(typeof(KernelHeaders).Assembly));

    // The addresses below point into these arrays: pinned, and alive as long as this object.
    private readonly List<byte[]> pinned = [];
    private readonly nint[] texts;
    private readonly nint[] names;

    /// <summary>Makes a set of headers.</summary>
    /// <param name="headers">Names as included, and UTF-8 texts. The order does not matter.</param>
    public KernelHeaders(IEnumerable<KeyValuePair<string, byte[]>> headers)
    {
        KeyValuePair<string, byte[]>[] sorted = [.. headers];
        Array.Sort(sorted, (left, right) => string.CompareOrdinal(left.Key, right.Key));
        texts = new nint[sorted.Length];
        names = new nint[sorted.Length];
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        for (int i = 0; i < sorted.Length; i++)
        {
            byte[] name = Encoding.UTF8.GetBytes(sorted[i].Key);
            names[i] = Pin(name);
            texts[i] = Pin(sorted[i].Value);
            KernelCacheKey.Append(hash, name);
            KernelCacheKey.Append(hash, sorted[i].Value);
        }

        Hash = hash.GetHashAndReset();
    }

    /// <summary>The headers of this assembly, read and hashed once per process.</summary>
    public static KernelHeaders Embedded => LazyEmbedded.Value;

    /// <summary>SHA-256 over all names and texts.</summary>
    public byte[] Hash { get; }

    /// <summary>Addresses of the texts.</summary>
    public ReadOnlySpan<nint> Texts => texts;

    /// <summary>Addresses of the names.</summary>
    public ReadOnlySpan<nint> Names => names;

    /// <summary>The headers of an assembly: this one, or the copy of it that another program brings along.</summary>
    public static KernelHeaders EmbeddedIn(Assembly assembly)
    {
        List<KeyValuePair<string, byte[]>> headers = [];
        foreach (string resource in assembly.GetManifestResourceNames())
        {
            if (resource.EndsWith(Extension, StringComparison.Ordinal))
            {
                using Stream stream = assembly.GetManifestResourceStream(resource)!;
                byte[] text = new byte[stream.Length];
                stream.ReadExactly(text);
                // A build on Windows names resources with its own separator.
                headers.Add(new(resource.Replace('\\', '/'), text));
            }
        }

        return new KernelHeaders(headers);
    }

    private unsafe nint Pin(byte[] text)
    {
        byte[] copy = GC.AllocateArray<byte>(text.Length + 1, pinned: true);
        text.CopyTo(copy, 0);
        pinned.Add(copy);
        fixed (byte* first = copy)
        {
            return (nint)first;
        }
    }
}
