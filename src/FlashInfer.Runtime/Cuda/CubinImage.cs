using System.Buffers.Binary;
using System.Text;

namespace FlashInfer.Cuda;

/// <summary>
/// What can be told about a cubin without the driver. The driver takes no length: it follows the offsets in the file, so a truncated
/// image would be read past its end.
/// </summary>
internal static class CubinImage
{
    private const int HeaderBytes = 64;
    private const int SectionHeaderBytes = 64;
    private const int ProgramHeaderBytes = 56;
    private const int SymbolBytes = 24;
    private const uint SymbolTable = 2; // SHT_SYMTAB
    private const uint SectionWithoutBytes = 8; // SHT_NOBITS
    private const int MachineCuda = 190; // EM_CUDA

    /// <summary>Says what is wrong with an image, or null when it is a whole 64-bit ELF file for CUDA.</summary>
    public static string? Problem(ReadOnlySpan<byte> image)
    {
        if (image.Length < HeaderBytes || !image.StartsWith("\u007fELF"u8))
        {
            return $"it is no cubin: {image.Length:N0} bytes that do not begin with an ELF header";
        }

        int machine = BinaryPrimitives.ReadUInt16LittleEndian(image[18..]);
        if (image[4] != 2 || image[5] != 1 || machine != MachineCuda)
        {
            return $"it is an ELF file for machine {machine}, not a 64-bit little-endian one for CUDA ({MachineCuda})";
        }

        ulong programs = BinaryPrimitives.ReadUInt64LittleEndian(image[32..]);
        ulong sections = BinaryPrimitives.ReadUInt64LittleEndian(image[40..]);
        int programBytes = BinaryPrimitives.ReadUInt16LittleEndian(image[54..]);
        int programCount = BinaryPrimitives.ReadUInt16LittleEndian(image[56..]);
        int sectionBytes = BinaryPrimitives.ReadUInt16LittleEndian(image[58..]);
        int sectionCount = BinaryPrimitives.ReadUInt16LittleEndian(image[60..]);
        if (
            (programCount > 0 && programBytes < ProgramHeaderBytes)
            || (sectionCount > 0 && sectionBytes < SectionHeaderBytes)
            || !Inside(image, programs, (ulong)programBytes * (ulong)programCount)
            || !Inside(image, sections, (ulong)sectionBytes * (ulong)sectionCount)
        )
        {
            return $"it is damaged or cut short: its tables do not fit into its {image.Length:N0} bytes";
        }

        for (int i = 0; i < sectionCount; i++)
        {
            ReadOnlySpan<byte> section = image.Slice((int)sections + i * sectionBytes, SectionHeaderBytes);
            uint type = BinaryPrimitives.ReadUInt32LittleEndian(section[4..]);
            ulong offset = BinaryPrimitives.ReadUInt64LittleEndian(section[24..]);
            ulong size = BinaryPrimitives.ReadUInt64LittleEndian(section[32..]);
            if (type != SectionWithoutBytes && !Inside(image, offset, size))
            {
                return $"it is damaged or cut short: section {i} does not fit into its {image.Length:N0} bytes";
            }
        }

        return null;
    }

    /// <summary>Reads an initialised variable, such as the <c>KernelInfo</c> of a kernel.</summary>
    /// <param name="image">A whole cubin: one that has no <see cref="Problem"/>.</param>
    /// <param name="name">The variable's symbol.</param>
    /// <param name="destination">Gets its bytes.</param>
    /// <returns>Whether there is a variable of this name and size.</returns>
    public static bool TryReadVariable(ReadOnlySpan<byte> image, string name, Span<byte> destination)
    {
        Span<byte> symbol = stackalloc byte[Encoding.UTF8.GetMaxByteCount(name.Length) + 1];
        symbol = symbol[..(Encoding.UTF8.GetBytes(name, symbol) + 1)];
        symbol[^1] = 0;
        int sections = BinaryPrimitives.ReadUInt16LittleEndian(image[60..]);
        for (int i = 0; i < sections; i++)
        {
            ReadOnlySpan<byte> table = Section(image, i);
            if (BinaryPrimitives.ReadUInt32LittleEndian(table[4..]) != SymbolTable)
            {
                continue;
            }

            ReadOnlySpan<byte> names = Bytes(image, Section(image, BinaryPrimitives.ReadInt32LittleEndian(table[40..])));
            for (ReadOnlySpan<byte> rest = Bytes(image, table); rest.Length >= SymbolBytes; rest = rest[SymbolBytes..])
            {
                if (
                    names[BinaryPrimitives.ReadInt32LittleEndian(rest)..].StartsWith(symbol)
                    && BinaryPrimitives.ReadUInt64LittleEndian(rest[16..]) == (ulong)destination.Length
                )
                {
                    ReadOnlySpan<byte> section = Section(image, BinaryPrimitives.ReadUInt16LittleEndian(rest[6..]));
                    ulong value = BinaryPrimitives.ReadUInt64LittleEndian(rest[8..]);
                    Bytes(image, section).Slice((int)value, destination.Length).CopyTo(destination);
                    return true;
                }
            }
        }

        return false;
    }

    private static ReadOnlySpan<byte> Section(ReadOnlySpan<byte> image, int index) =>
        image.Slice((int)BinaryPrimitives.ReadUInt64LittleEndian(image[40..]) + index * SectionHeaderBytes, SectionHeaderBytes);

    private static ReadOnlySpan<byte> Bytes(ReadOnlySpan<byte> image, ReadOnlySpan<byte> section) =>
        image.Slice(
            (int)BinaryPrimitives.ReadUInt64LittleEndian(section[24..]),
            (int)BinaryPrimitives.ReadUInt64LittleEndian(section[32..])
        );

    private static bool Inside(ReadOnlySpan<byte> image, ulong offset, ulong size) =>
        size == 0 || (offset <= (ulong)image.Length && size <= (ulong)image.Length - offset);
}
