using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Observability;

namespace FlashInfer.Runtime.Tests.Compilation;

/// <summary>
/// Compiles are shared by the whole process, so units whose compile is watched here have names that no other test uses.
/// </summary>
public sealed class KernelCompilerThreadTests
{
    private const int Count = 32;

    [SkippableTheory]
    [InlineData(true)]
    [InlineData(false)]
    public void Threads_that_want_the_same_unit_share_one_compile(bool cached)
    {
        using TemporaryFolder folder = new();
        using Barrier barrier = new(Count);
        CompiledKernel?[] kernels = new CompiledKernel?[Count];
        Thread[] threads = [];
        int asking = 0;
        using FakeLog log = new(OnEntry);
        TranslationUnit unit = TestUnits.Tiny(name: $"fi_shared_{cached}");
        KernelCompiler compiler = TestNvrtc.Compiler(cached ? folder.Path : null, log);
        threads =
        [
            .. Enumerable
                .Range(0, Count)
                .Select(i => new Thread(() =>
                {
                    barrier.SignalAndWait();
                    Interlocked.Increment(ref asking);
                    kernels[i] = compiler.Compile(unit, "sm_80");
                })),
        ];
        Array.ForEach(threads, thread => thread.Start());
        Array.ForEach(threads, thread => thread.Join());

        Assert.All(kernels, kernel => Assert.Same(kernels[0], kernel));
        Assert.Equal(["CompileStarted", "Compiled"], log.Events);

        void OnEntry(LogEntry entry)
        {
            if (entry.Event == "CompileStarted")
            {
                // The compile begins when everyone else waits for it, so the test does not depend on who is fast.
                SpinWait.SpinUntil(
                    () => asking == Count && threads.Count(t => t.ThreadState.HasFlag(ThreadState.WaitSleepJoin)) == Count - 1,
                    TimeSpan.FromSeconds(30)
                );
                Thread.Sleep(100);
            }
        }
    }

    [SkippableFact]
    public void A_cancelled_wait_ends_while_the_compile_goes_on()
    {
        using CancellationTokenSource source = new();
        using ManualResetEventSlim started = new();
        using ManualResetEventSlim goOn = new();
        using FakeLog log = new(OnEntry);
        KernelCompiler compiler = TestNvrtc.Compiler(log: log);
        TranslationUnit unit = TestUnits.Tiny(name: "fi_cancelled");
        Task<CompiledKernel> compile = Task.Run(() => compiler.Compile(unit, "sm_80"));
        Assert.True(started.Wait(TimeSpan.FromMinutes(1)));
        Task<CompiledKernel> wait = Task.Run(() => compiler.Compile(unit, "sm_80", source.Token));

        source.CancelAfter(50);

        Assert.ThrowsAny<OperationCanceledException>(() => wait.GetAwaiter().GetResult());
        goOn.Set();
        Assert.False(compile.GetAwaiter().GetResult().Cubin.IsEmpty);

        void OnEntry(LogEntry entry)
        {
            if (entry.Event == "CompileStarted")
            {
                started.Set();
                goOn.Wait(TimeSpan.FromMinutes(1));
            }
        }
    }

    [SkippableFact]
    public void A_failed_compile_does_not_block_the_next_one()
    {
        KernelCompiler compiler = TestNvrtc.Compiler();
        TranslationUnit broken = TestUnits.Unit("fi_broken", "#error no");

        Assert.Throws<KernelCompilationException>(() => compiler.Compile(broken, "sm_80"));
        Assert.Throws<KernelCompilationException>(() => compiler.Compile(broken, "sm_80"));
    }

    [SkippableFact]
    public void Serialised_wgmma_is_a_warning_of_a_successful_compile()
    {
        // The accumulator is touched between issue and wait, so ptxas gives up the asynchrony.
        TranslationUnit unit = TestUnits.Unit(
            "fi_wgmma",
            """
            extern "C" __global__ void fi_wgmma(float* x, unsigned long long a, unsigned long long b) {
              float d[4] = {x[0], x[1], x[2], x[3]};
              for (int i = 0; i < 4; i++) {
                asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
                asm volatile("{.reg .pred p; setp.ne.b32 p, %6, 0;"
                             "wgmma.mma_async.sync.aligned.m64n8k16.f32.bf16.bf16 {%0,%1,%2,%3}, %4, %5, p, 1, 1, 0, 0;}"
                             : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3]) : "l"(a), "l"(b), "r"(1));
                d[0] += x[i];
                asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
              }
              asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory");
              x[threadIdx.x] = d[0] + d[1] + d[2] + d[3];
            }
            """
        );
        using FakeLog log = new();

        CompiledKernel kernel = TestNvrtc.Compiler(log: log).Compile(unit, "sm_90a");

        Assert.False(kernel.Cubin.IsEmpty);
        Assert.Matches(@"^unit 'fi_wgmma' for sm_90a: .*\(C75\d\d\) Potential Performance Loss: wgmma", Assert.Single(log.Warnings));
    }
}
