using System.Runtime.InteropServices;
using FlashInfer.Attention;
using FlashInfer.Compilation;
using FlashInfer.Cpu;
using FlashInfer.Cuda;

namespace FlashInfer;

public sealed partial class Device
{
    private CudaContext? _ownedContext;

    /// <summary>The GPU's context, for use with other libraries; null on the CPU device.</summary>
    public CudaContext? Cuda => (_backend as CudaBackend)?.Context;

    /// <summary>The stream that work is queued on when a call names none; null on the CPU device.</summary>
    public CudaStream? Stream => (_backend as CudaBackend)?.Stream;

    /// <summary>Opens the first GPU when there is a usable one, else the CPU; <see cref="Reason"/> says why.</summary>
    /// <param name="options">Options; the defaults when null.</param>
    public static Device Open(DeviceOptions? options = null)
    {
        options ??= new DeviceOptions();
        try
        {
            return OpenCuda(0, options, "a usable GPU is there");
        }
        catch (FlashInferException e) when (e is DeviceUnavailableException or CudaDriverException)
        {
            return OpenCpu(options, $"no GPU can be used: {FirstSentence(e.Message)}");
        }
    }

    /// <summary>Opens a GPU.</summary>
    /// <param name="ordinal">Its number, from 0, among those that the process may use.</param>
    /// <param name="options">Options; the defaults when null.</param>
    /// <exception cref="DeviceUnavailableException">No driver, a driver too old, no such GPU, or one that the kernels can't run on.</exception>
    public static Device OpenCuda(int ordinal = 0, DeviceOptions? options = null) =>
        OpenCuda(ordinal, options ?? new DeviceOptions(), $"GPU {ordinal} was asked for");

    /// <summary>Uses a context, and if wanted a stream, that another library made (ManagedCuda, ILGPU, TorchSharp).</summary>
    /// <param name="context">The context; its owner keeps it alive and disposes it after the device.</param>
    /// <param name="stream">The stream for calls that name none; a new one when null.</param>
    /// <param name="options">Options; the defaults when null.</param>
    /// <exception cref="DeviceUnavailableException">The GPU is one that the kernels can't run on.</exception>
    public static Device FromCuda(CudaContext context, CudaStream? stream = null, DeviceOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(context);
        return Wrap(context, stream, options ?? new DeviceOptions(), "another library's context was given");
    }

    /// <summary>Opens the CPU backend.</summary>
    /// <param name="options">Options; the defaults when null.</param>
    /// <remarks>
    /// A program published with NativeAOT uses the vectors of the oldest processor that it is compiled for: on x64 those of SSE, 128 bits
    /// wide. <c>&lt;IlcInstructionSet&gt;x86-64-v3&lt;/IlcInstructionSet&gt;</c> in its project file makes them AVX2's (2 to 3 times as
    /// fast), <c>x86-64-v4</c> AVX-512's; it does not start on a processor without them. A program that the JIT compiler runs needs nothing.
    /// </remarks>
    public static Device OpenCpu(DeviceOptions? options = null) => OpenCpu(options ?? new DeviceOptions(), "the CPU was asked for");

    private static Device OpenCuda(int ordinal, DeviceOptions options, string reason)
    {
        CudaContext context = CudaContext.Open(ordinal);
        try
        {
            Device device = Wrap(context, null, options, reason);
            device._ownedContext = context;
            return device;
        }
        catch
        {
            context.Dispose();
            throw;
        }
    }

    private static Device Wrap(CudaContext context, CudaStream? stream, DeviceOptions options, string reason)
    {
        KernelCompiler compiler = new(options.Compiler);
        CudaBackend backend = new(context, stream, (spec, owner) => new CudaAttentionKernels(spec, owner, compiler));
        return new Device(backend, DeviceKind.Cuda, context.Name, reason);
    }

    private static Device OpenCpu(DeviceOptions options, string reason)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.CpuThreads, 1);
        return new Device(
            new CpuBackend(options.CpuThreads),
            DeviceKind.Cpu,
            $"CPU ({RuntimeInformation.ProcessArchitecture}, {options.CpuThreads} threads)",
            reason
        );
    }

    /// <summary>A reason stands in a line: the places that were searched are for the exception of <see cref="OpenCuda(int, DeviceOptions?)"/>.</summary>
    private static string FirstSentence(string message)
    {
        string line = message.Split('\n')[0];
        int end = line.IndexOf(". ", StringComparison.Ordinal);
        return (end < 0 ? line : line[..end]).TrimEnd('.', ':');
    }
}
