using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>
/// A plan as kernels read it: the work items, and for a variant of attention the sequences of the items and its arguments. One copy takes
/// all of it to the device, at addresses that a captured graph may hold.
/// </summary>
/// <remarks>
/// In memory: <see cref="VariantData"/> and the arguments' members; at a fixed place behind them <see cref="ListHeader"/> and items, none of
/// which lies across two cache lines; an <see cref="ItemContext"/> for each item; the elements of the arguments' spans. The last two are
/// found through addresses.
/// </remarks>
internal sealed class PlanList : IDisposable
{
    private const int FirstElementRoom = 4096;

    private readonly Device _device;
    private readonly AttentionVariant? _variant;
    private readonly VariantMemory? _arguments;
    private readonly bool _ownsArguments;
    private readonly int _listOffset;
    private UploadBuffer _buffer;
    private int _elementRoom;
    private bool _captured;

    /// <param name="device">The device.</param>
    /// <param name="capacity">Items of the longest list.</param>
    /// <param name="variant">The configuration's variant of attention.</param>
    /// <param name="lender">A list whose arguments this one has, too: they are to be taken there first.</param>
    public PlanList(Device device, int capacity, AttentionVariant? variant, PlanList? lender = null)
    {
        _device = device;
        _variant = variant;
        Capacity = capacity;
        _listOffset = ItemBytes(1) - Unsafe.SizeOf<ListHeader>();
        if (variant is not null)
        {
            _ownsArguments = lender is null;
            _arguments = lender?._arguments ?? new VariantMemory();
            _listOffset += Unsafe.SizeOf<VariantData>() + VariantMemory.MaxMemberBytes;
            _elementRoom = variant.ArgumentNames is null ? 0 : FirstElementRoom;
        }

        _buffer = device.Backend.CreateUploadBuffer(Bytes(_elementRoom));
    }

    /// <summary>The list on the device.</summary>
    public nint Address => _buffer.Address + _listOffset;

    /// <summary><see cref="VariantData"/> on the device; 0 without a variant.</summary>
    public nint VariantAddress => _variant is null ? 0 : _buffer.Address;

    /// <summary>Whether the arguments taken fit as it is.</summary>
    public bool HasRoom => _arguments is null || _arguments.ElementBytes <= _elementRoom;

    /// <summary>Items that the list can hold.</summary>
    public int Capacity { get; }

    /// <summary>
    /// Takes the arguments of the plan to come, <see cref="NoArguments"/> where it is given none; throws unless they are the variant's. The
    /// list of the last plan stays as it is.
    /// </summary>
    public void Take<TArguments>(scoped in VariantArguments<TArguments> arguments, in BatchShape batch)
        where TArguments : allows ref struct
    {
        if (typeof(TArguments) == typeof(NoArguments))
        {
            if (_variant?.ArgumentNames is { } names)
            {
                throw new InvalidOperationException(
                    $"The configuration's variant of attention takes arguments: {names}. Give them with every plan, by the overload that takes them."
                );
            }

            return;
        }

        if (_variant is not AttentionVariant<TArguments> variant)
        {
            throw new InvalidOperationException(
                _variant?.ArgumentNames is { } names
                    ? $"The plan is given {typeof(TArguments)}, but the configuration's variant of attention takes other arguments: {names}."
                    : $"The plan is given {typeof(TArguments)}, but the configuration has no variant of attention that takes arguments."
            );
        }

        if (_ownsArguments)
        {
            variant.Write(in arguments.Values, batch, _arguments!.Begin());
            _arguments.End();
        }

        if (_captured && !HasRoom)
        {
            throw new InvalidOperationException(
                $"The arguments of this plan's variant of attention come to {_arguments!.ElementBytes} bytes, but a captured graph holds the address of a list with room for {_elementRoom}. Plan with the largest arguments before capturing."
            );
        }
    }

    /// <summary>Which keys the planned sequences' query tokens do not see, as the arguments taken say.</summary>
    public KeyBounds Bounds =>
        _variant is not null && (_variant.Does(VariantHooks.FirstKey) || _variant.SkipsKeys)
            ? new KeyBounds(_variant, _arguments!.Reader)
            : default;

    /// <summary>Room for the items, contents undefined, and for the arguments taken. There is no list until <see cref="Commit"/>.</summary>
    public Span<WorkItem> Begin()
    {
        if (!HasRoom)
        {
            Grow();
        }

        return Items(_buffer.Begin(), Capacity);
    }

    /// <summary>Sends the first items of the last <see cref="Begin"/>'s span, in stream order.</summary>
    /// <param name="count">Items.</param>
    /// <param name="header">The header, but for its count.</param>
    /// <param name="sequences">Whose items these are.</param>
    /// <param name="stream">The stream.</param>
    public void Commit(int count, ListHeader header, in PlannedSequences sequences, CudaStream? stream)
    {
        Span<byte> memory = _buffer.Begin();
        header.Count = count;
        MemoryMarshal.Write(memory[_listOffset..], header);
        int end = _listOffset + Unsafe.SizeOf<ListHeader>() + ItemBytes(count);
        if (_arguments is not null)
        {
            int contexts = end;
            end += count * Unsafe.SizeOf<ItemContext>();
            MemoryMarshal.Write(memory, new VariantData { Contexts = _buffer.Address + contexts });
            sequences.Describe(Items(memory, count), MemoryMarshal.Cast<byte, ItemContext>(memory[contexts..end]));
            _arguments.CopyTo(memory[Unsafe.SizeOf<VariantData>()..], memory[end..], _buffer.Address + end);
            end += _arguments.ElementBytes;
        }

        _buffer.Commit(end, stream);
    }

    /// <summary>Notes that a graph holds the list's address from here on.</summary>
    public void Capture() => _captured = true;

    public void Dispose()
    {
        _buffer.Dispose();
        if (_ownsArguments)
        {
            _arguments?.Dispose();
        }
    }

    private static int ItemBytes(int items) => checked(items * Unsafe.SizeOf<WorkItem>());

    private Span<WorkItem> Items(Span<byte> memory, int count) =>
        MemoryMarshal.Cast<byte, WorkItem>(memory.Slice(_listOffset + Unsafe.SizeOf<ListHeader>(), ItemBytes(count)));

    private int Bytes(int elements) =>
        checked(
            _listOffset
            + Unsafe.SizeOf<ListHeader>()
            + ItemBytes(Capacity)
            + (_variant is null ? 0 : Capacity * Unsafe.SizeOf<ItemContext>())
            + elements
        );

    private void Grow()
    {
        int room = (int)Math.Min(int.MaxValue - Bytes(0), 2L * _arguments!.ElementBytes);
        UploadBuffer grown = _device.Backend.CreateUploadBuffer(Bytes(room));

        // A step still running, on whatever stream, may be reading the old list.
        _device.Synchronize();
        _buffer.Dispose();
        _buffer = grown;
        _elementRoom = room;
    }
}

/// <summary>The sequences of a batch, as arguments of a variant may have to fit them.</summary>
/// <param name="spec">The configuration.</param>
/// <param name="queryTokens">Query tokens of each sequence.</param>
/// <param name="lengths">Tokens of each sequence.</param>
internal readonly ref struct BatchShape(AttentionSpec spec, ReadOnlySpan<int> queryTokens, ReadOnlySpan<int> lengths)
{
    public readonly int Heads = spec.Heads;
    public readonly int HeadDim = spec.HeadDim;
    public readonly ReadOnlySpan<int> QueryTokens = queryTokens;
    public readonly ReadOnlySpan<int> Lengths = lengths;
}

/// <summary>The arguments of a plan that is given none.</summary>
internal readonly struct NoArguments;

/// <summary>The sequences of a list, in the order of their rows: those of a plan that have query tokens, or all, or some.</summary>
/// <param name="queryTokens">Query tokens of each; empty when each has one.</param>
/// <param name="lengths">Tokens of each.</param>
/// <param name="places">Place of each in the batch; empty when they are all of it.</param>
/// <param name="rows">The row of each one's first query token.</param>
internal readonly ref struct PlannedSequences(
    ReadOnlySpan<int> queryTokens,
    ReadOnlySpan<int> lengths,
    ReadOnlySpan<int> places,
    ReadOnlySpan<int> rows
)
{
    private readonly ReadOnlySpan<int> _queryTokens = queryTokens;
    private readonly ReadOnlySpan<int> _lengths = lengths;
    private readonly ReadOnlySpan<int> _places = places;
    private readonly ReadOnlySpan<int> _rows = rows;

    /// <summary>Says of each item whose it is.</summary>
    public void Describe(ReadOnlySpan<WorkItem> items, Span<ItemContext> contexts)
    {
        for (int at = 0; at < items.Length; at++)
        {
            int i = Owner(items[at].Row);
            contexts[at] = new ItemContext
            {
                Sequence = _places.IsEmpty ? i : _places[i],
                FirstRow = _rows[i],
                QoLen = _queryTokens.IsEmpty ? 1 : _queryTokens[i],
                KvLen = _lengths[i],
            };
        }
    }

    /// <summary>The last sequence that starts at the row or before it: one without query tokens starts where the next one does.</summary>
    private int Owner(int row)
    {
        int low = 0;
        int high = _lengths.Length - 1;
        while (low < high)
        {
            int middle = (low + high + 1) / 2;
            (low, high) = _rows[middle] <= row ? (middle, high) : (low, middle - 1);
        }

        return low;
    }
}
