namespace FlashInfer.Compilation;

/// <summary>
/// One compile at a time per key within the process. Who waited finds the result of who went first, also when nothing is kept on disk.
/// The slot lives as long as someone holds or awaits it, so finished kernels are not kept in memory.
/// </summary>
internal sealed class CompileSlot : IDisposable
{
    private static readonly Lock Gate = new();
    private static readonly Dictionary<string, Shared> Slots = [];

    private readonly string key;
    private readonly Shared shared;

    private CompileSlot(string key, Shared shared)
    {
        this.key = key;
        this.shared = shared;
    }

    /// <summary>What the one before left; null for the first, and after a failure.</summary>
    public CompiledKernel? Result
    {
        get => shared.Result;
        set => shared.Result = value;
    }

    /// <summary>Waits until no other thread holds the slot of this key.</summary>
    public static CompileSlot Enter(string key, CancellationToken cancellationToken)
    {
        Shared? shared;
        lock (Gate)
        {
            if (!Slots.TryGetValue(key, out shared))
            {
                Slots.Add(key, shared = new Shared());
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
        shared.Turn.Release();
        Leave(key, shared);
    }

    private static void Leave(string key, Shared shared)
    {
        lock (Gate)
        {
            if (--shared.Users == 0)
            {
                Slots.Remove(key);
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
