using System.Diagnostics.CodeAnalysis;
using System.Runtime.CompilerServices;
using System.Text;

namespace FlashInfer.Cuda;

/// <summary>What is known about a failed call.</summary>
/// <param name="Call">The driver function.</param>
/// <param name="Code">Its result.</param>
/// <param name="Name">The driver's name for the code, or null when it has none.</param>
/// <param name="Text">The driver's words for the code, or null.</param>
/// <param name="Subject">What the call was about, such as a function's name, or null.</param>
/// <param name="Device">The device, or null when none is known.</param>
/// <param name="Requested">Bytes asked for, or 0.</param>
/// <param name="Free">Bytes free on the device, or 0 when unknown.</param>
/// <param name="Total">Bytes of the device, or 0 when unknown.</param>
internal readonly record struct CudaFailure(
    string Call,
    int Code,
    string? Name = null,
    string? Text = null,
    string? Subject = null,
    string? Device = null,
    long Requested = 0,
    long Free = 0,
    long Total = 0
)
{
    /// <summary>The code's name, also when the driver has none.</summary>
    public string CodeName => Name ?? "unknown CUresult";

    /// <summary>The whole message: call, code, the driver's text, what it was about, device, and what to do about the common ones.</summary>
    public string Message()
    {
        StringBuilder message = new($"{Call} failed with {CodeName} ({Code})");
        message.Append(Text is null ? "." : $": {Text}.");
        if (Subject is not null)
        {
            message.Append($" {Subject}.");
        }

        if (Device is not null)
        {
            message.Append($" On {Device}.");
        }

        if (Requested > 0)
        {
            message.Append($" Asked for {Requested:N0} bytes");
            message.Append(Total > 0 ? $"; {Free:N0} of {Total:N0} bytes are free." : ".");
        }

        string? hint = Hint(Code);
        return hint is null ? message.ToString() : message.Append(' ').Append(hint).ToString();
    }

    private static string? Hint(int code) =>
        code switch
        {
            CudaResult.OutOfMemory =>
                "Free tensors and caches, make the cache smaller, or look for other processes on the GPU (nvidia-smi).",
            CudaResult.StubLibrary =>
                "The library found is the toolkit's stub for linking, not a driver: take its folder out of the loader's path.",
            CudaResult.DeviceUnavailable => "Another process holds the device in exclusive mode (nvidia-smi -q -d COMPUTE).",
            CudaResult.NoDevice =>
                "The driver sees no GPU: check nvidia-smi, CUDA_VISIBLE_DEVICES, and, in a container, that it was started with GPUs.",
            CudaResult.InvalidImage => "The image is damaged or is no cubin: compile it again.",
            CudaResult.NoBinaryForGpu =>
                "The cubin was compiled for another architecture than the device's own; cubins do not run across major versions.",
            CudaResult.InvalidPtx or CudaResult.UnsupportedPtxVersion =>
                "The PTX is invalid, or newer than the driver understands: update the driver or compile to a cubin.",
            CudaResult.JitCompilerNotFound => "The driver's PTX compiler (libnvidia-ptxjitcompiler) is not installed: compile to a cubin.",
            CudaResult.LaunchOutOfResources =>
                "The block needs more registers, threads or shared memory than the device gives to one; dynamic shared memory above 48 KiB must be allowed first.",
            CudaResult.IllegalAddress
            or CudaResult.MisalignedAddress
            or CudaResult.InvalidAddressSpace
            or CudaResult.InvalidPc
            or CudaResult.IllegalInstruction
            or CudaResult.HardwareStackError
            or CudaResult.LaunchFailed
            or CudaResult.LaunchTimeout
            or CudaResult.Assert
            or CudaResult.EccUncorrectable =>
                "The context is lost: every later call in this process fails the same way, and an earlier launch may be the cause. Restart the process; compute-sanitizer names the faulting access.",
            CudaResult.ContextIsDestroyed or CudaResult.InvalidContext =>
                "The CUDA context has been destroyed or is no context: another library may have reset the device.",
            CudaResult.InvalidHandle => "The handle is not valid, or belongs to another context or to an object that was destroyed.",
            CudaResult.Deinitialized => "The process is shutting down and the driver with it.",
            CudaResult.SystemNotReady => "The system is not ready: on NVSwitch machines the fabric manager has to run.",
            CudaResult.SystemDriverMismatch =>
                "The kernel module and the user-mode driver have different versions: reboot after a driver update, or mend the container's driver mount.",
            CudaResult.CompatNotSupportedOnDevice =>
                "This GPU does not support the CUDA forward-compatibility package: install a newer driver.",
            CudaResult.StreamCaptureUnsupported or CudaResult.StreamCaptureImplicit =>
                "The operation is not allowed while a stream is captured into a graph: do it before the capture begins or after it ends.",
            CudaResult.StreamCaptureInvalidated =>
                "An operation that is not allowed during capture has ended the capture: planning, host reads, allocation and synchronisation belong outside it.",
            CudaResult.StreamCaptureUnjoined => "Another stream joined the capture and was not joined back with an event before it ended.",
            CudaResult.StreamCaptureWrongThread => "A capture has to be ended by the thread that began it.",
            CudaResult.CapturedEvent => "The event was recorded inside a capture and says nothing outside of it.",
            _ => null,
        };
}

internal static unsafe partial class CudaDriver
{
    /// <summary>Throws unless the result says success. Costs one compare when it does.</summary>
    /// <param name="result">The result of the call.</param>
    /// <param name="call">The call's name.</param>
    /// <param name="context">Names the device in the message.</param>
    /// <param name="requested">Bytes that were asked for.</param>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public static void Check(int result, string call, CudaContext? context = null, long requested = 0)
    {
        if (result != CudaResult.Success)
        {
            Throw(result, call, context, requested);
        }
    }

    /// <summary>Throws for a result that is not success.</summary>
    [DoesNotReturn]
    public static void Throw(int result, string call, CudaContext? context = null, long requested = 0, string? subject = null) =>
        throw Failure(result, call, context, requested, subject);

    /// <summary>The exception for a result that is not success.</summary>
    public static CudaDriverException Failure(
        int result,
        string call,
        CudaContext? context = null,
        long requested = 0,
        string? subject = null
    )
    {
        byte* name = null;
        byte* text = null;
        if (cuGetErrorName(result, &name) != CudaResult.Success)
        {
            name = null;
        }

        if (cuGetErrorString(result, &text) != CudaResult.Success)
        {
            text = null;
        }

        nuint free = 0;
        nuint total = 0;
        if (requested > 0 && cuMemGetInfo(&free, &total) != CudaResult.Success)
        {
            free = 0;
            total = 0;
        }

        CudaFailure failure = new(call, result, Utf8(name), Utf8(text), subject, context?.Description, requested, (long)free, (long)total);
        return new CudaDriverException(call, result, failure.CodeName, failure.Message());
    }

    private static string? Utf8(byte* text) =>
        text is null
            ? null
            : Encoding.UTF8.GetString(System.Runtime.InteropServices.MemoryMarshal.CreateReadOnlySpanFromNullTerminated(text));
}
