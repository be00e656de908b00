using System.Buffers.Binary;

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

    private static bool Inside(ReadOnlySpan<byte> image, ulong offset, ulong size) =>
        size == 0 || (offset <= (ulong)image.Length && size <= (ulong)image.Length - offset);
}
