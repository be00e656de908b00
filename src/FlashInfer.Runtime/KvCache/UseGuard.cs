namespace FlashInfer.KvCache;

/// <summary>
/// A cache or wrapper belongs to one caller at a time. Two threads inside it at once is a mistake that would otherwise show as wrong
/// numbers much later; this says so at once, for two interlocked operations a call.
/// </summary>
internal sealed class UseGuard(string what)
{
    private int _inUse;

    public Use Enter() =>
        Interlocked.Exchange(ref _inUse, 1) == 0
            ? new Use(this)
            : throw new InvalidOperationException(
                $"Another thread is using this {what}; it belongs to one caller at a time. Guard it with a lock or use one per thread."
            );

    public readonly ref struct Use(UseGuard guard)
    {
        public void Dispose() => Volatile.Write(ref guard._inUse, 0);
    }
}
