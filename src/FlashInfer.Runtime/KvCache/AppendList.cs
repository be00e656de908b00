using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer.KvCache;

/// <summary>Where the new tokens of a batch go: made once per step, used for every layer.</summary>
internal sealed class AppendList : IDisposable
{
    private const int TokensPerItem = 16;

    private readonly Device _device;
    private readonly PagedKvCache _cache;
    private UploadList<AppendItem>? _list;
    private Sequence[] _sequences = new Sequence[64];
    private int[] _revisions = new int[64];
    private int[] _firstRows = new int[64];
    private int _sequenceCount;
    private int _itemCount;
    private bool _captured;
    private bool _overlaps;

    /// <param name="cache">The cache that is appended to.</param>
    /// <param name="operation">The call that appends, for messages.</param>
    public AppendList(PagedKvCache cache, string operation)
    {
        _device = cache.Device;
        _cache = cache;
        Check = LaunchCheck.Create(cache, operation, SequenceAt);
    }

    /// <summary>The check of the launches; null when the device is not in checked mode.</summary>
    public LaunchCheck? Check { get; }

    /// <summary>New tokens of all sequences of the list.</summary>
    public int Tokens { get; private set; }

    /// <summary>Whether the list was made for these sequences as they are now.</summary>
    public bool Covers(ReadOnlySpan<Sequence> sequences)
    {
        if (_list is null || _sequenceCount != sequences.Length)
        {
            return false;
        }

        for (int i = 0; i < sequences.Length; i++)
        {
            if (_sequences[i] != sequences[i] || _revisions[i] != sequences[i].Revision)
            {
                return false;
            }
        }

        return true;
    }

    /// <summary>Makes the list for sequences, those without an open forward included, and sends it to the device.</summary>
    /// <param name="sequences">The sequences.</param>
    /// <param name="tokens">New tokens of all of them.</param>
    /// <param name="stream">The stream.</param>
    public void Fill(ReadOnlySpan<Sequence> sequences, int tokens, CudaStream? stream)
    {
        Tokens = tokens;
        if (tokens == 0 && !_captured)
        {
            // Nobody will read the list. (A captured graph would, and has to find it empty.)
            _sequenceCount = 0;
            _itemCount = 0;
            return;
        }

        Reserve(sequences);
        Span<AppendItem> items = _list!.Begin();
        int count = 0;
        int row = 0;
        for (int i = 0; i < sequences.Length; i++)
        {
            Sequence sequence = sequences[i];
            for (int done = 0; done < sequence.ForwardTokens; done += TokensPerItem)
            {
                items[count++] = new AppendItem
                {
                    Row = row + done,
                    Count = Math.Min(TokensPerItem, sequence.ForwardTokens - done),
                    Position = sequence.Length + done,
                    PageOffset = sequence.PageOffset,
                };
            }

            _firstRows[i] = row;
            row += sequence.ForwardTokens;
            _sequences[i] = sequence;
            _revisions[i] = sequence.Revision;
        }

        _list.Commit(count, stream);
        _overlaps = false;
        _sequenceCount = sequences.Length;
        _itemCount = count;
    }

    /// <summary>Writes one layer.</summary>
    public void Run(int layer, AppendParams args, AttentionKernels kernels, CudaStream? stream)
    {
        Check?.Before(stream);
        args.Plan = _list!.Address;
        args.Fault = Check?.Record(layer) ?? 0;
        if (kernels.Append(args, new ListLaunch(_itemCount, _list.Capacity, 1, _overlaps), stream))
        {
            _captured = true;
            _cache.Table.IsCaptured = true;
        }

        _overlaps = true;
        Check?.After(layer, stream);
    }

    public void Dispose()
    {
        _list?.Dispose();
        Check?.Dispose();
    }

    /// <summary>The sequence that a row of the new keys and values belongs to.</summary>
    private Sequence? SequenceAt(int row)
    {
        int i = _sequenceCount - 1;
        while (i >= 0 && _firstRows[i] > row)
        {
            i--;
        }

        return i < 0 ? null : _sequences[i];
    }

    private void Reserve(ReadOnlySpan<Sequence> sequences)
    {
        if (_sequences.Length < sequences.Length)
        {
            int length = Math.Max(sequences.Length, _sequences.Length * 2);
            _sequences = new Sequence[length];
            _revisions = new int[length];
            _firstRows = new int[length];
        }

        int needed = 0;
        foreach (Sequence sequence in sequences)
        {
            needed += (sequence.ForwardTokens + TokensPerItem - 1) / TokensPerItem;
        }

        if (_list is null || _list.Capacity < needed)
        {
            if (_captured)
            {
                throw new InvalidOperationException(
                    $"This step appends {needed} groups of up to {TokensPerItem} tokens, but a captured graph holds the address of a list for {_list!.Capacity}; plan the largest step before capturing, or append fewer tokens."
                );
            }

            UploadList<AppendItem> grown = new(_device.Backend, Math.Max(256, needed * 2));
            if (_list is not null)
            {
                // A step still running, on whatever stream, may be reading the old list.
                _device.Synchronize();
                _list.Dispose();
            }

            _list = grown;
        }
    }
}
