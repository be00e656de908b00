using System.Buffers.Binary;
using System.Diagnostics.CodeAnalysis;
using System.Security.Cryptography;
using System.Text;

namespace FlashInfer.Compilation;

/// <summary>What an entry of the kernel cache holds.</summary>
/// <param name="Architecture">The architecture.</param>
/// <param name="Compiler">The compiler that made it, such as <c>NVRTC 12.4</c>.</param>
/// <param name="Log">Its log.</param>
/// <param name="Cubin">The cubin.</param>
internal sealed record KernelCacheEntry(string Architecture, string Compiler, string Log, byte[] Cubin);

/// <summary>
/// The format of an entry file, little endian:
/// <code>
///   0  8 bytes   magic "FI.CUBIN"
///   8  int32     format version
///  12  int32     bytes of metadata
///  16  int32     bytes of cubin
///  20  32 bytes  key
///  52  32 bytes  SHA-256 over everything else: the 52 bytes above, then metadata and cubin
///  84  metadata  three strings (architecture, compiler, log), each an int32 length and UTF-8
///      cubin
/// </code>
/// Whatever does not read as exactly that is not an entry, and the cache treats it as absent.
/// </summary>
internal static class KernelCacheFile
{
    /// <summary>The format version; also part of every key, so that versions live side by side in one folder.</summary>
    public const int Version = 1;

    private const int KeyOffset = 20;
    private const int HashOffset = KeyOffset + KernelCacheKey.Size;
    private const int HeaderSize = HashOffset + SHA256.HashSizeInBytes;

    private static ReadOnlySpan<byte> Magic => "FI.CUBIN"u8;

    /// <summary>The bytes of an entry file.</summary>
    public static byte[] Encode(ReadOnlySpan<byte> key, KernelCacheEntry entry)
    {
        string[] fields = [entry.Architecture, entry.Compiler, entry.Log];
        int metadata = fields.Sum(field => sizeof(int) + Encoding.UTF8.GetByteCount(field));
        byte[] file = new byte[HeaderSize + metadata + entry.Cubin.Length];
        Magic.CopyTo(file);
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(8), Version);
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(12), metadata);
        BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(16), entry.Cubin.Length);
        key.CopyTo(file.AsSpan(KeyOffset));
        int at = HeaderSize;
        foreach (string field in fields)
        {
            int length = Encoding.UTF8.GetBytes(field, file.AsSpan(at + sizeof(int)));
            BinaryPrimitives.WriteInt32LittleEndian(file.AsSpan(at), length);
            at += sizeof(int) + length;
        }

        entry.Cubin.CopyTo(file, at);
        Checksum(file, file.AsSpan(HashOffset));
        return file;
    }

    /// <summary>Reads an entry file; false when anything about it is wrong, the key included.</summary>
    public static bool TryDecode(ReadOnlySpan<byte> file, ReadOnlySpan<byte> key, [NotNullWhen(true)] out KernelCacheEntry? entry)
    {
        entry = null;
        return file.Length >= HeaderSize && key.SequenceEqual(file.Slice(KeyOffset, KernelCacheKey.Size)) && TryDecode(file, out entry);
    }

    /// <summary>Reads an entry file, whatever it was compiled from; false when anything about it is wrong.</summary>
    public static bool TryDecode(ReadOnlySpan<byte> file, [NotNullWhen(true)] out KernelCacheEntry? entry)
    {
        entry = null;
        if (file.Length < HeaderSize || !file.StartsWith(Magic) || BinaryPrimitives.ReadInt32LittleEndian(file[8..]) != Version)
        {
            return false;
        }

        int metadata = BinaryPrimitives.ReadInt32LittleEndian(file[12..]);
        int cubin = BinaryPrimitives.ReadInt32LittleEndian(file[16..]);
        if (metadata < 0 || cubin <= 0 || (long)HeaderSize + metadata + cubin != file.Length)
        {
            return false;
        }

        Span<byte> hash = stackalloc byte[SHA256.HashSizeInBytes];
        Checksum(file, hash);
        if (!hash.SequenceEqual(file.Slice(HashOffset, hash.Length)))
        {
            return false;
        }

        ReadOnlySpan<byte> rest = file.Slice(HeaderSize, metadata);
        if (
            !TryReadString(ref rest, out string architecture)
            || !TryReadString(ref rest, out string compiler)
            || !TryReadString(ref rest, out string log)
        )
        {
            return false;
        }

        entry = new KernelCacheEntry(architecture, compiler, log, file[^cubin..].ToArray());
        return true;
    }

    private static bool TryReadString(ref ReadOnlySpan<byte> bytes, out string text)
    {
        text = "";
        if (bytes.Length < sizeof(int))
        {
            return false;
        }

        int length = BinaryPrimitives.ReadInt32LittleEndian(bytes);
        bytes = bytes[sizeof(int)..];
        if (length < 0 || length > bytes.Length)
        {
            return false;
        }

        text = Encoding.UTF8.GetString(bytes[..length]);
        bytes = bytes[length..];
        return true;
    }

    private static void Checksum(ReadOnlySpan<byte> file, Span<byte> destination)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(file[..HashOffset]);
        hash.AppendData(file[HeaderSize..]);
        hash.GetHashAndReset(destination);
    }
}
