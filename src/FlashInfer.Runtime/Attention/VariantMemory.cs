using System.Runtime.InteropServices;

namespace FlashInfer.Attention;

/// <summary>
/// The last plan's arguments of a variant of attention in host memory, as planners read them and plans copy them: the members of
/// <c>struct Arguments</c>, and apart from them the elements that its spans name. Reused from plan to plan.
/// </summary>
internal sealed unsafe class VariantMemory : IDisposable
{
    /// <summary>Bytes that the members come to at most.</summary>
    public const int MaxMemberBytes = 1008;

    private const int ElementAlignment = 16;

    private readonly List<int> _spans = [];
    private byte* _members;
    private byte* _elements;
    private int _memberRoom;
    private int _elementRoom;

    /// <summary>Bytes of the members.</summary>
    public int MemberBytes { get; private set; }

    /// <summary>Bytes of all spans' elements.</summary>
    public int ElementBytes { get; private set; }

    /// <summary>The members, whose spans name elements in host memory.</summary>
    public VariantReader Reader => new((nint)_members);

    /// <summary>Begins anew.</summary>
    public VariantWriter Begin()
    {
        _spans.Clear();
        MemberBytes = 0;
        ElementBytes = 0;
        return new VariantWriter(this);
    }

    /// <summary>Adds a member.</summary>
    public void Add<T>(T value)
        where T : unmanaged
    {
        int at = MemberBytes;
        MemberBytes += sizeof(T);
        Grow(ref _members, ref _memberRoom, at, MemberBytes);
        *(T*)(_members + at) = value;
    }

    /// <summary>Adds a member that is a span.</summary>
    public void AddSpan<T>(ReadOnlySpan<T> elements)
        where T : unmanaged => elements.CopyTo(AddSpan<T>(elements.Length));

    /// <summary>Adds a member that is a span, whose elements the caller sets before more is added.</summary>
    public Span<T> AddSpan<T>(int length)
        where T : unmanaged
    {
        // Kernels read bits by words, which may stand a little over the last of them.
        int start = ElementBytes;
        int end = checked(start + (length * sizeof(T)) + ElementAlignment - 1) & -ElementAlignment;
        Grow(ref _elements, ref _elementRoom, ElementBytes, end);
        ElementBytes = end;

        // The elements may still move: their place becomes an address when all are there.
        MemberBytes = (MemberBytes + VariantSpan.Alignment - 1) & -VariantSpan.Alignment;
        _spans.Add(MemberBytes);
        Add(new VariantSpan { Address = start, Length = length });
        return new Span<T>(_elements + start, length);
    }

    /// <summary>Begins the arguments of the next of several variants that are one.</summary>
    public void Align() => MemberBytes = (MemberBytes + VariantSpan.ComponentAlignment - 1) & -VariantSpan.ComponentAlignment;

    /// <summary>After the last member.</summary>
    public void End()
    {
        if (MemberBytes > MaxMemberBytes)
        {
            throw new ArgumentException(
                $"The arguments of the variant of attention come to {MemberBytes} bytes without the elements of their spans; expected at most {MaxMemberBytes}, so 63 spans. Put scalars into a span."
            );
        }

        foreach (int at in _spans)
        {
            ((VariantSpan*)(_members + at))->Address += (nint)_elements;
        }
    }

    /// <summary>Copies all of it, with spans that name the elements at another address.</summary>
    /// <param name="members">Receives the members.</param>
    /// <param name="elements">Receives the elements.</param>
    /// <param name="address">What the device calls the elements' memory.</param>
    public void CopyTo(Span<byte> members, Span<byte> elements, nint address)
    {
        new ReadOnlySpan<byte>(_members, MemberBytes).CopyTo(members);
        new ReadOnlySpan<byte>(_elements, ElementBytes).CopyTo(elements);
        foreach (int at in _spans)
        {
            Span<byte> member = members[at..];
            VariantSpan span = MemoryMarshal.Read<VariantSpan>(member);
            span.Address += address - (nint)_elements;
            MemoryMarshal.Write(member, span);
        }
    }

    public void Dispose()
    {
        NativeMemory.AlignedFree(_members);
        NativeMemory.AlignedFree(_elements);
        _members = _elements = null;
    }

    private static void Grow(ref byte* memory, ref int room, int used, int needed)
    {
        if (needed <= room)
        {
            return;
        }

        int grown = (int)Math.Min(int.MaxValue, Math.Max(64, 2L * needed));
        byte* larger = (byte*)NativeMemory.AlignedAlloc((nuint)grown, ElementAlignment);
        new ReadOnlySpan<byte>(memory, used).CopyTo(new Span<byte>(larger, grown));
        NativeMemory.AlignedFree(memory);
        memory = larger;
        room = grown;
    }
}
