using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;

namespace FlashInfer.Compilation;

/// <summary>The identity of a compiled kernel: a SHA-256 over everything that the cubin depends on.</summary>
internal static class KernelCacheKey
{
    /// <summary>Bytes of a key.</summary>
    public const int Size = SHA256.HashSizeInBytes;

    /// <summary>Makes the key.</summary>
    /// <param name="unit">Name and source.</param>
    /// <param name="headers">All headers, not only those that the unit includes: finding out which costs more than a compile saves.</param>
    /// <param name="options">The options in order, the architecture among them.</param>
    /// <param name="compiler">The identity of the NVRTC.</param>
    public static byte[] Create(TranslationUnit unit, KernelHeaders headers, IReadOnlyList<string> options, string compiler)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        Append(hash, $"flashinfer kernel {KernelCacheFile.Version}");
        Append(hash, unit.Name);
        Append(hash, unit.Source.Span);
        Append(hash, headers.Hash);
        foreach (string option in options)
        {
            Append(hash, option);
        }

        Append(hash, compiler);
        return hash.GetHashAndReset();
    }

    /// <summary>Adds a field with its length in front, so that no two lists of fields run together into the same bytes.</summary>
    public static void Append(IncrementalHash hash, ReadOnlySpan<byte> field)
    {
        Span<byte> length = stackalloc byte[sizeof(int)];
        BinaryPrimitives.WriteInt32LittleEndian(length, field.Length);
        hash.AppendData(length);
        hash.AppendData(field);
    }

    /// <summary>Adds a text in UTF-8.</summary>
    public static void Append(IncrementalHash hash, string field) => Append(hash, Encoding.UTF8.GetBytes(field));
}
