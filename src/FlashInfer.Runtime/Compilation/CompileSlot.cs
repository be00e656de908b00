namespace FlashInfer.Compilation;

/// <summary>
/// One compile at a time per key within the process. Who waited finds the result of who went first, also when nothing is kept on disk.
/// The slot lives as long as someone holds or awaits it, so finished kernels are not kept in memory.
/// </summary>
internal sealed class CompileSlot : IDisposable
{
    private static readonly Lock s_lock = new();
    private static readonly Dictionary<string, Shared> s_slots = [];

    private readonly string _key;
    private readonly Shared _shared;

    private CompileSlot(string key, Shared shared)
    {
        _key = key;
        _shared = shared;
    }

    /// <summary>What the one before left; null for the first, and after a failure.</summary>
    public CompiledKernel? Result
    {
        get => _shared.Result;
        set => _shared.Result = value;
    }

    /// <summary>Waits until no other thread holds the slot of this key.</summary>
    public static CompileSlot Enter(string key, CancellationToken cancellationToken)
    {
        Shared? shared;
        lock (s_lock)
        {
            if (!s_slots.TryGetValue(key, out shared))
            {
                s_slots.Add(key, shared = new Shared());
            }

            shared.Users++;
        }

        try
        {
            shared.Turn.Wait(cancellationToken);
            return new CompileSlot(key, shared);
        }
        catch (OperationCanceledException)
        {
            Leave(key, shared);
            throw;
        }
    }

    /// <summary>Lets the next one in.</summary>
    public void Dispose()
    {
        _shared.Turn.Release();
        Leave(_key, _shared);
    }

    private static void Leave(string key, Shared shared)
    {
        lock (s_lock)
        {
            if (--shared.Users == 0)
            {
                s_slots.Remove(key);
                shared.Turn.Dispose();
            }
        }
    }

    private sealed class Shared
    {
        public SemaphoreSlim Turn { get; } = new(1, 1);

        public int Users { get; set; }

        public CompiledKernel? Result { get; set; }
    }
}
