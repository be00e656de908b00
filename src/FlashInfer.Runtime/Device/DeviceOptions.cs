using FlashInfer.Compilation;
using Microsoft.Extensions.Logging;

namespace FlashInfer;

/// <summary>How a device is opened.</summary>
public sealed class DeviceOptions
{
    private const string CheckedVariable = "FLASHINFER_CHECKED";

    /// <summary>How kernels are compiled and cached, and who is told. The CPU device compiles none.</summary>
    public KernelCompilerOptions Compiler { get; init; } = new();

    /// <summary>
    /// Where the device logs: which device was opened and why, compiles and what keeps kernels from being cached, and in debugging each
    /// plan. Nowhere when null.
    /// </summary>
    public ILoggerFactory? LoggerFactory { get; init; }

    /// <summary>
    /// The architecture that kernels are compiled for, such as <c>sm_90</c>: one that the device runs. When null: the device's own, with all
    /// of its features. On an H100, <c>sm_90</c> instead of <c>sm_90a</c> gives the portable kernels, which every GPU from sm_80 on has, in place
    /// of Hopper's; for comparing the two. The CPU device takes no notice.
    /// </summary>
    public string? Architecture { get; init; }

    /// <summary>
    /// Whether kernels check the pages that they read and write, every launch is waited for, and work on one cache from two streams of
    /// which neither waits for the other is refused. For finding mistakes: a call then takes a millisecond or more. When null: the
    /// environment variable <c>FLASHINFER_CHECKED</c>, <c>1</c> or <c>0</c>; off when that is not set either.
    /// </summary>
    /// <remarks>What is found is a <see cref="DeviceAssertException"/>, or of streams an <see cref="InvalidOperationException"/>.</remarks>
    public bool? IsChecked { get; init; }

    /// <summary>Threads of the CPU device, 1 or more; all processors when not given.</summary>
    public int CpuThreads { get; init; } = Environment.ProcessorCount;

    /// <summary>Whether the device is checked, by the option or the variable.</summary>
    /// <param name="variable">The value of an environment variable.</param>
    /// <exception cref="FlashInferException">The variable has a value that it can't have.</exception>
    internal bool ResolveChecked(Func<string, string?> variable) =>
        IsChecked
        ?? variable(CheckedVariable) switch
        {
            "1" => true,
            null or "" or "0" => false,
            string other => throw new FlashInferException(
                $"The environment variable {CheckedVariable} is '{other}'; expected 1 for checked mode, or 0 or nothing for none."
            ),
        };
}
