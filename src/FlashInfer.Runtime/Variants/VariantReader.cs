using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;

namespace FlashInfer;

/// <summary>Reads what a <see cref="VariantWriter"/> wrote, in the same order.</summary>
public unsafe ref struct VariantReader
{
    private readonly byte* _arguments;
    private int _at;

    internal VariantReader(nint arguments)
    {
        _arguments = (byte*)arguments;
    }

    /// <summary>The next member, an <see cref="int"/>.</summary>
    public int ReadInt32() => Read<int>();

    /// <summary>The next member, a <see cref="uint"/>.</summary>
    public uint ReadUInt32() => Read<uint>();

    /// <summary>The next member, a <see cref="float"/>.</summary>
    public float ReadSingle() => Read<float>();

    /// <summary>The next member, a <see cref="bool"/>.</summary>
    public bool ReadBoolean() => Read<int>() != 0;

    /// <summary>The next member, a span.</summary>
    /// <typeparam name="T">int, uint, float, bool or byte.</typeparam>
    public ReadOnlySpan<T> ReadSpan<T>()
        where T : unmanaged
    {
        _at = (_at + VariantSpan.Alignment - 1) & -VariantSpan.Alignment;
        VariantSpan span = Read<VariantSpan>();
        return new ReadOnlySpan<T>((void*)span.Address, span.Length);
    }

    /// <summary>Where the arguments of the next of several variants that are one begin.</summary>
    internal void Align() => _at = (_at + VariantSpan.ComponentAlignment - 1) & -VariantSpan.ComponentAlignment;

    private T Read<T>()
        where T : unmanaged
    {
        T value = Unsafe.ReadUnaligned<T>(_arguments + _at);
        _at += sizeof(T);
        return value;
    }
}

/// <summary>A span as kernels see it, <c>flashinfer::Span</c>; 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct VariantSpan
{
    public const int Alignment = 8;

    /// <summary>At multiples of this the arguments of each begin, of several variants that are one.</summary>
    public const int ComponentAlignment = 16;

    /// <summary>The elements, on the device.</summary>
    public nint Address;

    /// <summary>How many.</summary>
    public int Length;

    private readonly int _reserved;
}
