using FlashInfer.Cpu;

namespace FlashInfer.Tests.Cpu;

public class CpuWorkerPoolTests
{
    [Theory]
    [InlineData(1)]
    [InlineData(2)]
    [InlineData(5)]
    public void Every_unit_is_done_once(int workers)
    {
        using CpuWorkerPool pool = new(workers);
        CountingJob job = new(1000, workers);
        for (int run = 1; run <= 200; run++)
        {
            int units = run % 7 == 0 ? 1000 : run % 7;
            job.Clear();
            pool.Run(job, 42, units);
            Assert.All(job.Counts[..units], count => Assert.Equal(1, count));
            Assert.All(job.Counts[units..], count => Assert.Equal(0, count));
        }
    }

    [Fact]
    public void All_workers_take_part_even_after_they_went_to_sleep()
    {
        using CpuWorkerPool pool = new(3);
        Thread.Sleep(50);

        // Each unit waits for the others: this ends only when three threads run at once.
        using Barrier barrier = new(3);
        pool.Run(new ActionJob(_ => Assert.True(barrier.SignalAndWait(TimeSpan.FromSeconds(30)))), 0, 3);
    }

    [Fact]
    public void Callers_of_several_threads_follow_one_another()
    {
        using CpuWorkerPool pool = new(3);
        int inside = 0;
        long total = 0;
        Parallel.For(
            0,
            4,
            _ =>
            {
                for (int run = 0; run < 50; run++)
                {
                    ActionJob job = new(unit =>
                    {
                        Assert.InRange(Interlocked.Increment(ref inside), 1, 3);
                        Interlocked.Add(ref total, unit);
                        Interlocked.Decrement(ref inside);
                    });
                    pool.Run(job, 0, 10);
                }
            }
        );
        Assert.Equal(4 * 50 * 45, total);
    }

    [Theory]
    [InlineData(1)]
    [InlineData(4)]
    public void An_exception_reaches_the_caller_and_the_pool_goes_on(int workers)
    {
        using CpuWorkerPool pool = new(workers);
        for (int bad = 0; bad < 20; bad++)
        {
            ActionJob job = new(unit =>
            {
                if (unit == bad)
                {
                    throw new FormatException($"unit {unit}");
                }
            });
            FormatException exception = Assert.Throws<FormatException>(() => pool.Run(job, 0, 20));
            Assert.Equal($"unit {bad}", exception.Message);
        }

        int done = 0;
        pool.Run(new ActionJob(_ => Interlocked.Increment(ref done)), 0, 20);
        Assert.Equal(20, done);
    }

    [Fact]
    public void Disposal_joins_the_threads_and_ends_the_pool()
    {
        CpuWorkerPool pool = new(4);
        HashSet<Thread> threads = [];
        using (Barrier barrier = new(4))
        {
            ActionJob job = new(_ =>
            {
                lock (threads)
                {
                    threads.Add(Thread.CurrentThread);
                }

                barrier.SignalAndWait(TimeSpan.FromSeconds(30));
            });
            pool.Run(job, 0, 4);
        }

        pool.Dispose();
        pool.Dispose();
        Assert.Equal(4, threads.Count);
        Assert.All(threads, thread => Assert.True(thread == Thread.CurrentThread || !thread.IsAlive));
        Assert.Throws<ObjectDisposedException>(() => pool.Run(new ActionJob(_ => { }), 0, 1));
    }

    [Fact]
    public void A_run_inside_a_run_is_refused()
    {
        using CpuWorkerPool pool = new(1);
        ActionJob outer = new(_ => pool.Run(new ActionJob(_ => { }), 0, 1));
        Assert.Throws<InvalidOperationException>(() => pool.Run(outer, 0, 1));
    }

    [Theory]
    [InlineData(0)]
    [InlineData(-1)]
    [InlineData(4097)]
    public void The_number_of_workers_is_checked(int workers)
    {
        ArgumentOutOfRangeException exception = Assert.Throws<ArgumentOutOfRangeException>(() => new CpuWorkerPool(workers));
        Assert.Contains($"workers is {workers}; expected 1 to 4096", exception.Message, StringComparison.Ordinal);
    }

    private sealed class CountingJob(int units, int workers) : CpuJob
    {
        public int[] Counts { get; } = new int[units];

        public void Clear() => Array.Clear(Counts);

        public override void Execute(nint args, int unit, int worker)
        {
            Assert.Equal(42, args);
            Assert.InRange(worker, 0, workers - 1);
            Interlocked.Increment(ref Counts[unit]);
        }
    }

    private sealed class ActionJob(Action<int> action) : CpuJob
    {
        public override void Execute(nint args, int unit, int worker) => action(unit);
    }
}
