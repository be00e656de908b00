using System.Buffers.Binary;
using System.Security.Cryptography;
using System.Text;
using Microsoft.Win32.SafeHandles;

namespace FlashInfer.Compilation;

/// <summary>What the index of a bundle says of one kernel.</summary>
/// <param name="Key">What it was compiled from, <see cref="KernelBundle.KeyOf"/>.</param>
/// <param name="Unit">The unit's name.</param>
/// <param name="Architecture">The architecture.</param>
/// <param name="Compiler">The compiler that made it, such as <c>NVRTC 12.4</c>.</param>
/// <param name="Log">Its log.</param>
/// <param name="Hash">SHA-256 of the cubin.</param>
/// <param name="Offset">Where the cubin begins in the file.</param>
/// <param name="Length">Its bytes.</param>
internal sealed record KernelBundleEntry(
    byte[] Key,
    string Unit,
    string Architecture,
    string Compiler,
    string Log,
    byte[] Hash,
    long Offset,
    int Length
);

/// <summary>
/// Kernels that were compiled ahead of time, in one file beside the program. The format, little endian:
/// <code>
///   0  8 bytes   magic "FI.KRNLS"
///   8  int32     format version
///  12  int32     bytes of the index
///  16  int32     kernels
///  20  32 bytes  SHA-256 over the 20 bytes above and the index
///  52  index     for each kernel: key (32 bytes), SHA-256 of the cubin (32), offset (int64), bytes (int32), and four strings
///                (unit, architecture, compiler, log), each an int32 length and UTF-8
///      cubins    at their offsets
/// </code>
/// Only the index is read when a bundle is opened, and of the cubins those that are asked for. The same kernels give the same bytes.
/// </summary>
internal sealed class KernelBundle
{
    /// <summary>How the names of bundles end.</summary>
    public const string Extension = ".fikernels";

    /// <summary>
    /// The architecture of kernels that are there as PTX: the portable ones, which the driver of any GPU from sm_80 on compiles. For GPUs
    /// that are newer than the bundle.
    /// </summary>
    public const string PtxArchitecture = "compute_80";

    /// <summary>The format version; also part of every key.</summary>
    public const int Version = 1;

    private const int HashOffset = 20;
    private const int HeaderSize = HashOffset + SHA256.HashSizeInBytes;

    private KernelBundle(string path, IReadOnlyList<KernelBundleEntry> entries)
    {
        Path = path;
        Entries = entries;
    }

    private static ReadOnlySpan<byte> Magic => "FI.KRNLS"u8;

    /// <summary>The file.</summary>
    public string Path { get; }

    /// <summary>What it holds, sorted by architecture and unit.</summary>
    public IReadOnlyList<KernelBundleEntry> Entries { get; }

    /// <summary>
    /// What a kernel is compiled from. Unlike the key of the cache it leaves the compiler out: the program has to find its kernels where
    /// there is none, and who built the bundle has chosen one.
    /// </summary>
    public static byte[] KeyOf(TranslationUnit unit, KernelHeaders headers, string architecture)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        KernelCacheKey.Append(hash, $"flashinfer bundle {Version}");
        KernelCacheKey.Append(hash, unit.Name);
        KernelCacheKey.Append(hash, unit.Source.Span);
        KernelCacheKey.Append(hash, headers.Hash);
        KernelCacheKey.Append(hash, architecture);
        return hash.GetHashAndReset();
    }

    /// <summary>Reads the index of a file.</summary>
    /// <exception cref="InvalidDataException">It is no bundle of this version, or it is damaged; the message continues "the bundle ...".</exception>
    /// <exception cref="IOException">It cannot be read.</exception>
    /// <exception cref="UnauthorizedAccessException">It may not be read.</exception>
    public static KernelBundle Open(string path)
    {
        using SafeFileHandle file = File.OpenHandle(path);
        Span<byte> header = stackalloc byte[HeaderSize];
        if (RandomAccess.Read(file, header, 0) < HeaderSize || !header.StartsWith(Magic))
        {
            throw new InvalidDataException("is none: it does not begin as one");
        }

        int version = BinaryPrimitives.ReadInt32LittleEndian(header[8..]);
        if (version != Version)
        {
            throw new InvalidDataException($"has format version {version}, but this FlashInfer.Runtime reads version {Version}");
        }

        long size = RandomAccess.GetLength(file);
        int indexBytes = BinaryPrimitives.ReadInt32LittleEndian(header[12..]);
        int count = BinaryPrimitives.ReadInt32LittleEndian(header[16..]);
        if (indexBytes < 0 || HeaderSize + (long)indexBytes > size)
        {
            throw Damaged();
        }

        byte[] index = new byte[indexBytes];
        if (RandomAccess.Read(file, index, HeaderSize) < indexBytes || !header[HashOffset..].SequenceEqual(Checksum(header, index)))
        {
            throw Damaged();
        }

        return new KernelBundle(path, ReadIndex(index, count, size));
    }

    /// <summary>Reads a kernel's cubin.</summary>
    /// <exception cref="InvalidDataException">It is damaged; the message continues "the bundle ...".</exception>
    /// <exception cref="IOException">The file cannot be read.</exception>
    public byte[] Read(KernelBundleEntry entry)
    {
        byte[] cubin = new byte[entry.Length];
        using SafeFileHandle file = File.OpenHandle(Path);
        int read = RandomAccess.Read(file, cubin, entry.Offset);
        return read == cubin.Length && SHA256.HashData(cubin).AsSpan().SequenceEqual(entry.Hash) ? cubin : throw Damaged();
    }

    /// <summary>Writes a bundle: under a name of its own, then renamed into place.</summary>
    /// <param name="path">The file.</param>
    /// <param name="kernels">The kernels, each with the unit that it was compiled from.</param>
    /// <param name="headers">The headers that they were compiled with.</param>
    public static void Write(string path, IEnumerable<(TranslationUnit Unit, CompiledKernel Kernel)> kernels, KernelHeaders headers)
    {
        (TranslationUnit Unit, CompiledKernel Kernel)[] sorted = [.. kernels];
        Array.Sort(
            sorted,
            static (a, b) =>
                string.CompareOrdinal(a.Kernel.Architecture, b.Kernel.Architecture) is not 0 and int order
                    ? order
                    : string.CompareOrdinal(a.Unit.Name, b.Unit.Name)
        );
        int indexBytes = sorted.Sum(static k => IndexBytes(k.Kernel));
        byte[] head = new byte[HeaderSize + indexBytes];
        Magic.CopyTo(head);
        BinaryPrimitives.WriteInt32LittleEndian(head.AsSpan(8), Version);
        BinaryPrimitives.WriteInt32LittleEndian(head.AsSpan(12), indexBytes);
        BinaryPrimitives.WriteInt32LittleEndian(head.AsSpan(16), sorted.Length);
        Span<byte> rest = head.AsSpan(HeaderSize);
        long offset = head.Length;
        foreach ((TranslationUnit unit, CompiledKernel kernel) in sorted)
        {
            Put(ref rest, KeyOf(unit, headers, kernel.Architecture));
            Put(ref rest, SHA256.HashData(kernel.Cubin.Span));
            BinaryPrimitives.WriteInt64LittleEndian(rest, offset);
            BinaryPrimitives.WriteInt32LittleEndian(rest[sizeof(long)..], kernel.Cubin.Length);
            rest = rest[(sizeof(long) + sizeof(int))..];
            foreach (string field in Fields(kernel))
            {
                int length = Encoding.UTF8.GetBytes(field, rest[sizeof(int)..]);
                BinaryPrimitives.WriteInt32LittleEndian(rest, length);
                rest = rest[(sizeof(int) + length)..];
            }

            offset += kernel.Cubin.Length;
        }

        Checksum(head, head.AsSpan(HeaderSize)).CopyTo(head, HashOffset);
        string temporary = $"{path}.{Environment.ProcessId}.tmp";
        using (FileStream file = new(temporary, FileMode.Create, FileAccess.Write, FileShare.None))
        {
            file.Write(head);
            foreach ((_, CompiledKernel kernel) in sorted)
            {
                file.Write(kernel.Cubin.Span);
            }
        }

        File.Move(temporary, path, overwrite: true);
    }

    private static InvalidDataException Damaged() => new("is damaged");

    private static string[] Fields(CompiledKernel kernel) => [kernel.Unit, kernel.Architecture, kernel.Compiler, kernel.Log];

    private static int IndexBytes(CompiledKernel kernel) =>
        KernelCacheKey.Size
        + SHA256.HashSizeInBytes
        + sizeof(long)
        + sizeof(int)
        + Fields(kernel).Sum(static field => sizeof(int) + Encoding.UTF8.GetByteCount(field));

    private static void Put(ref Span<byte> rest, ReadOnlySpan<byte> bytes)
    {
        bytes.CopyTo(rest);
        rest = rest[bytes.Length..];
    }

    // The checksum of the index has been met: only a mistake of the writer could make it unreadable, and slicing would say so.
    private static KernelBundleEntry[] ReadIndex(ReadOnlySpan<byte> index, int count, long size)
    {
        KernelBundleEntry[] entries = new KernelBundleEntry[count];
        for (int i = 0; i < count; i++)
        {
            byte[] key = Take(ref index, KernelCacheKey.Size).ToArray();
            byte[] hash = Take(ref index, SHA256.HashSizeInBytes).ToArray();
            long offset = BinaryPrimitives.ReadInt64LittleEndian(Take(ref index, sizeof(long)));
            int length = BinaryPrimitives.ReadInt32LittleEndian(Take(ref index, sizeof(int)));
            string unit = TakeString(ref index);
            string architecture = TakeString(ref index);
            string compiler = TakeString(ref index);
            string log = TakeString(ref index);
            if (offset + length > size)
            {
                throw new InvalidDataException("is cut short");
            }

            entries[i] = new KernelBundleEntry(key, unit, architecture, compiler, log, hash, offset, length);
        }

        return entries;
    }

    private static ReadOnlySpan<byte> Take(ref ReadOnlySpan<byte> rest, int bytes)
    {
        ReadOnlySpan<byte> taken = rest[..bytes];
        rest = rest[bytes..];
        return taken;
    }

    private static string TakeString(ref ReadOnlySpan<byte> rest) =>
        Encoding.UTF8.GetString(Take(ref rest, BinaryPrimitives.ReadInt32LittleEndian(Take(ref rest, sizeof(int)))));

    private static byte[] Checksum(ReadOnlySpan<byte> header, ReadOnlySpan<byte> index)
    {
        using IncrementalHash hash = IncrementalHash.CreateHash(HashAlgorithmName.SHA256);
        hash.AppendData(header[..HashOffset]);
        hash.AppendData(index);
        return hash.GetHashAndReset();
    }
}
