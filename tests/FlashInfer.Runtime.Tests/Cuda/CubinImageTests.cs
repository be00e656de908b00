using System.Buffers.Binary;
using FlashInfer.Cuda;

namespace FlashInfer.Tests.Cuda;

public sealed class CubinImageTests
{
    [Fact]
    public void Whole_file_is_accepted() => Assert.Null(CubinImage.Problem(Cubin()));

    [Fact]
    public void Garbage_is_refused() =>
        Assert.Contains("it is no cubin: 5 bytes", CubinImage.Problem([1, 2, 3, 4, 5]), StringComparison.Ordinal);

    [Fact]
    public void Nothing_is_refused() => Assert.Contains("it is no cubin: 0 bytes", CubinImage.Problem([]), StringComparison.Ordinal);

    [Fact]
    public void Elf_of_another_machine_is_refused()
    {
        byte[] image = Cubin();
        image[18] = 62;

        Assert.Contains("machine 62", CubinImage.Problem(image), StringComparison.Ordinal);
    }

    [Fact]
    public void Every_truncation_is_refused()
    {
        byte[] image = Cubin();
        for (int length = 0; length < image.Length; length++)
        {
            Assert.NotNull(CubinImage.Problem(image.AsSpan(0, length)));
        }
    }

    [Fact]
    public void Section_past_the_end_is_refused()
    {
        byte[] image = Cubin();
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(64 + 64 + 32), ulong.MaxValue);

        Assert.Contains("section 1", CubinImage.Problem(image), StringComparison.Ordinal);
    }

    [Fact]
    public void Section_without_bytes_may_name_any_size()
    {
        byte[] image = Cubin();
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(64 + 64 + 4), 8);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(64 + 64 + 32), 1 << 20);

        Assert.Null(CubinImage.Problem(image));
    }

    /// <summary>A header, two section headers, and 16 bytes of section 1.</summary>
    private static byte[] Cubin()
    {
        byte[] image = new byte[64 + 2 * 64 + 16];
        "\u007fELF"u8.CopyTo(image);
        image[4] = 2;
        image[5] = 1;
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(18), 190);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(40), 64);
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(58), 64);
        BinaryPrimitives.WriteUInt16LittleEndian(image.AsSpan(60), 2);
        BinaryPrimitives.WriteUInt32LittleEndian(image.AsSpan(64 + 64 + 4), 1);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(64 + 64 + 24), 64 + 2 * 64);
        BinaryPrimitives.WriteUInt64LittleEndian(image.AsSpan(64 + 64 + 32), 16);
        return image;
    }
}
