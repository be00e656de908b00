using FlashInfer.Compilation;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary>Compiles units for architectures, several at a time, and shows how far it is.</summary>
internal static class KernelBuild
{
    /// <summary>Compiles every unit for every architecture that it serves.</summary>
    /// <exception cref="ToolException">One could not be compiled; the others were given up.</exception>
    public static (TranslationUnit Unit, CompiledKernel Kernel)[] Run(
        KernelCompiler compiler,
        IReadOnlyList<TranslationUnit> units,
        IReadOnlyList<string> architectures,
        int jobs,
        Output output
    )
    {
        (TranslationUnit Unit, string Architecture)[] work =
        [
            .. architectures.SelectMany(architecture =>
                units.Where(unit => unit.Serves(architecture)).Select(unit => (unit, architecture))
            ),
        ];
        var kernels = new (TranslationUnit Unit, CompiledKernel Kernel)[work.Length];
        if (output.ShowsProgress)
        {
            output
                .Progress.Progress()
                .AutoClear(true)
                .Start(context =>
                {
                    ProgressTask bar = context.AddTask("compiling", maxValue: Math.Max(1, work.Length));
                    CompileAll(unit =>
                    {
                        bar.Description = Markup.Escape(unit);
                        bar.Increment(1);
                    });
                });
        }
        else
        {
            CompileAll(static _ => { });
        }

        return kernels;

        CompiledKernel Compile(TranslationUnit unit, string architecture) =>
            architecture == KernelBundle.PtxArchitecture ? compiler.CompilePtx(unit) : compiler.Compile(unit, architecture);

        void CompileAll(Action<string> done)
        {
            try
            {
                Parallel.For(
                    0,
                    work.Length,
                    new ParallelOptions { MaxDegreeOfParallelism = jobs },
                    i =>
                    {
                        kernels[i] = (work[i].Unit, Compile(work[i].Unit, work[i].Architecture));
                        done(work[i].Unit.Name);
                    }
                );
            }
            catch (AggregateException e) when (e.InnerExceptions[0] is KernelCompilationException failure)
            {
                throw new ToolException(ExitCode.Bad, failure.Message);
            }
        }
    }
}
