using System.Diagnostics;
using System.Runtime.ExceptionServices;

namespace FlashInfer.Cpu;

/// <summary>Work that a <see cref="CpuWorkerPool"/> splits into units.</summary>
internal abstract class CpuJob
{
    /// <summary>Does one unit.</summary>
    /// <param name="args">What was given to <see cref="CpuWorkerPool.Run"/>.</param>
    /// <param name="unit">The unit.</param>
    /// <param name="worker">Who does it, 0 to workers - 1; two units that run at once have different workers.</param>
    public abstract void Execute(nint args, int unit, int worker);
}

/// <summary>
/// The caller and some background threads, which claim a job's units one by one. A run allocates nothing. Runs from several threads
/// follow one another.
/// </summary>
/// <remarks>
/// A thread joins a run under the gate while the run is open, and the caller closes the run once no unit is left to claim. So the caller
/// waits only for threads that joined: one that wakes up late costs nothing.
/// </remarks>
internal sealed class CpuWorkerPool : IDisposable
{
    // The layers of a model follow each other within microseconds; waking a blocked thread takes longer than this.
    private static readonly long s_spinTicks = Stopwatch.Frequency / 50_000;

    private readonly Lock _runs = new();
    private readonly object _gate = new();
    private readonly Thread[] _threads;
    private CpuJob? _job;
    private nint _args;
    private int _units;
    private int _claimed;
    private int _generation;
    private int _joined;
    private bool _open;
    private bool _callerWaits;
    private bool _stopping;
    private ExceptionDispatchInfo? _failure;

    /// <summary>Starts the threads.</summary>
    /// <param name="workers">Threads that work at once, the caller included.</param>
    public CpuWorkerPool(int workers)
    {
        if (workers is < 1 or > 4096)
        {
            throw new ArgumentOutOfRangeException(nameof(workers), workers, $"workers is {workers}; expected 1 to 4096.");
        }

        Workers = workers;
        _threads = new Thread[workers - 1];
        for (int i = 0; i < _threads.Length; i++)
        {
            int worker = i + 1;
            _threads[i] = new Thread(() => Loop(worker)) { IsBackground = true, Name = $"FlashInfer CPU {worker}" };
            _threads[i].Start();
        }
    }

    /// <summary>Threads that work at once, the caller included.</summary>
    public int Workers { get; }

    /// <summary>Does all units and returns. An exception of a unit reaches the caller; units not yet claimed are then left out.</summary>
    public void Run(CpuJob job, nint args, int units)
    {
        if (_runs.IsHeldByCurrentThread)
        {
            throw new InvalidOperationException("A unit of work must not start a run of its own pool.");
        }

        lock (_runs)
        {
            ObjectDisposedException.ThrowIf(_stopping, this);
            if (units <= 1 || _threads.Length == 0)
            {
                for (int unit = 0; unit < units; unit++)
                {
                    job.Execute(args, unit, 0);
                }

                return;
            }

            Open(job, args, units);
            Work(0);
            Close();
            if (_failure is { } failure)
            {
                _failure = null;
                failure.Throw();
            }
        }
    }

    /// <summary>Waits for a run to end and joins the threads.</summary>
    public void Dispose()
    {
        lock (_runs)
        {
            lock (_gate)
            {
                if (_stopping)
                {
                    return;
                }

                Volatile.Write(ref _stopping, true);
                Monitor.PulseAll(_gate);
            }

            foreach (Thread thread in _threads)
            {
                thread.Join();
            }
        }
    }

    private void Open(CpuJob job, nint args, int units)
    {
        lock (_gate)
        {
            _job = job;
            _args = args;
            _units = units;
            _claimed = 0;
            _open = true;
            Volatile.Write(ref _generation, _generation + 1);
            if (units > _threads.Length)
            {
                Monitor.PulseAll(_gate);
                return;
            }

            for (int i = 1; i < units; i++)
            {
                Monitor.Pulse(_gate);
            }
        }
    }

    private void Close()
    {
        lock (_gate)
        {
            _open = false;
        }

        long until = Stopwatch.GetTimestamp() + s_spinTicks;
        while (Volatile.Read(ref _joined) > 0 && Stopwatch.GetTimestamp() < until)
        {
            Thread.SpinWait(8);
        }

        lock (_gate)
        {
            _callerWaits = true;
            while (_joined > 0)
            {
                Monitor.Wait(_gate);
            }

            _callerWaits = false;
            _job = null;
        }
    }

    private void Loop(int worker)
    {
        int seen = 0;
        while (true)
        {
            long until = Stopwatch.GetTimestamp() + s_spinTicks;
            while (Volatile.Read(ref _generation) == seen && !Volatile.Read(ref _stopping) && Stopwatch.GetTimestamp() < until)
            {
                Thread.SpinWait(8);
            }

            lock (_gate)
            {
                while (!_stopping && (_generation == seen || !_open))
                {
                    Monitor.Wait(_gate);
                }

                if (_stopping)
                {
                    return;
                }

                seen = _generation;
                _joined++;
            }

            Work(worker);
            lock (_gate)
            {
                _joined--;
                if (_joined == 0 && _callerWaits)
                {
                    Monitor.PulseAll(_gate);
                }
            }
        }
    }

    private void Work(int worker)
    {
        CpuJob job = _job!;
        nint args = _args;
        int units = _units;
        try
        {
            while (true)
            {
                int unit = Interlocked.Increment(ref _claimed) - 1;
                if ((uint)unit >= (uint)units)
                {
                    return;
                }

                job.Execute(args, unit, worker);
            }
        }
#pragma warning disable CA1031 // It is thrown again on the caller's thread.
        catch (Exception exception)
#pragma warning restore CA1031
        {
            Interlocked.CompareExchange(ref _failure, ExceptionDispatchInfo.Capture(exception), null);
            Interlocked.Exchange(ref _claimed, units);
        }
    }
}
