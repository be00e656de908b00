using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>The root of the exceptions that this library throws beside the argument exceptions of the base class library.</summary>
public class FlashInferException : Exception
{
    /// <summary>Makes the exception.</summary>
    /// <param name="message">What was wrong, the value, what was expected, what to do.</param>
    /// <param name="inner">The cause, if another exception is it.</param>
    public FlashInferException(string message, Exception? inner = null)
        : base(message, inner) { }
}

/// <summary>A call of the CUDA driver failed.</summary>
public sealed class CudaDriverException : FlashInferException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="call">The driver function, such as <c>cuMemAllocAsync</c>.</param>
    /// <param name="code">Its result code.</param>
    /// <param name="codeName">The name of the code, such as <c>CUDA_ERROR_OUT_OF_MEMORY</c>.</param>
    /// <param name="message">The whole message.</param>
    public CudaDriverException(string call, int code, string codeName, string message)
        : base(message)
    {
        Call = call;
        Code = code;
        CodeName = codeName;
    }

    /// <summary>The driver function.</summary>
    public string Call { get; }

    /// <summary>Its result code.</summary>
    public int Code { get; }

    /// <summary>The name of the code.</summary>
    public string CodeName { get; }
}

/// <summary>No device of the wanted kind can be used; the message says which step failed and what to do.</summary>
public sealed class DeviceUnavailableException : FlashInferException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="message">Which step failed and what to do.</param>
    /// <param name="inner">The cause, if another exception is it.</param>
    public DeviceUnavailableException(string message, Exception? inner = null)
        : this(message, [], inner) { }

    internal DeviceUnavailableException(string summary, IReadOnlyList<NativeSearchStep> tried, Exception? inner = null)
        : base(tried.Count == 0 ? summary : $"{summary} Tried: {string.Join("; ", tried)}.", inner)
    {
        Summary = summary;
        Tried = tried;
    }

    /// <summary>Where a library was looked for, with the outcome of each step; empty when that is not what failed.</summary>
    public IReadOnlyList<NativeSearchStep> Tried { get; }

    /// <summary>The message without what was tried: short enough for <see cref="Device.Reason"/>.</summary>
    internal string Summary { get; }
}

/// <summary>NVRTC is missing or refused a translation unit.</summary>
public sealed class KernelCompilationException : FlashInferException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="unit">The unit's name.</param>
    /// <param name="architecture">The architecture that it was compiled for, such as <c>sm_90a</c>.</param>
    /// <param name="message">The whole message.</param>
    /// <param name="log">NVRTC's log, empty when NVRTC was not found.</param>
    /// <param name="options">The options that NVRTC was given.</param>
    /// <param name="source">The unit's text.</param>
    /// <param name="inner">The cause.</param>
    public KernelCompilationException(
        string unit,
        string architecture,
        string message,
        string log,
        IReadOnlyList<string> options,
        string source,
        Exception? inner = null
    )
        : base(message, inner)
    {
        Unit = unit;
        Architecture = architecture;
        Log = log;
        Options = options;
        UnitSource = source;
    }

    /// <summary>The unit's name.</summary>
    public string Unit { get; }

    /// <summary>The architecture that it was compiled for, such as <c>sm_90a</c>.</summary>
    public string Architecture { get; }

    /// <summary>The version that NVRTC reports; null when none can be used.</summary>
    public Version? NvrtcVersion { get; init; }

    /// <summary>The NVRTC library; null when none can be used.</summary>
    public string? NvrtcPath { get; init; }

    /// <summary>NVRTC's log.</summary>
    public string Log { get; }

    /// <summary>The options that NVRTC was given.</summary>
    public IReadOnlyList<string> Options { get; }

    /// <summary>The unit's text.</summary>
    public string UnitSource { get; }
}

/// <summary>The cache has fewer free pages than the forward needs. Nothing was reserved.</summary>
public sealed class OutOfPagesException : FlashInferException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="needed">Pages that the forward or fork needs.</param>
    /// <param name="free">Pages that are free.</param>
    /// <param name="total">Pages of the cache.</param>
    public OutOfPagesException(int needed, int free, int total)
        : base(
            $"{needed} more {(needed == 1 ? "page is" : "pages are")} needed but {free} of {total} are free; free or shorten sequences, begin fewer tokens, or make the cache larger. TryBeginForward and TryFork report this without an exception."
        )
    {
        Needed = needed;
        Free = free;
        Total = total;
    }

    /// <summary>Pages that the forward or fork needs.</summary>
    public int Needed { get; }

    /// <summary>Pages that are free.</summary>
    public int Free { get; }

    /// <summary>Pages of the cache.</summary>
    public int Total { get; }
}

/// <summary>
/// Checked mode (<see cref="DeviceOptions.IsChecked"/>): a kernel met something that can't be, or failed. The message says which call,
/// layer, sequence, token and page.
/// </summary>
public sealed class DeviceAssertException : FlashInferException
{
    /// <summary>Makes the exception.</summary>
    /// <param name="message">What was found, where, and what to do.</param>
    /// <param name="inner">The driver's failure, when the kernel did not run to its end.</param>
    public DeviceAssertException(string message, Exception? inner = null)
        : base(message, inner) { }

    /// <summary>The call that launched the kernel, such as <c>BatchDecodeWithPagedKvCache.Run</c>.</summary>
    public required string Operation { get; init; }

    /// <summary>The layer, from 0; null when a replayed graph failed and none is known.</summary>
    public int? Layer { get; init; }

    /// <summary>The sequence whose page it was; null when none is known.</summary>
    public Sequence? Sequence { get; init; }

    /// <summary>The token of the sequence, from 0, that was about to be read or written; null when none is known.</summary>
    public int? Token { get; init; }

    /// <summary>The page id found in the page table, which the cache does not have; null when that is not what was wrong.</summary>
    public int? Page { get; init; }
}

/// <summary>A wrapper was run with no plan, or with one made before its sequences changed.</summary>
public sealed class StalePlanException(string message) : FlashInferException(message);
