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

    /// <summary>
    /// Opens the first GPU when it can be used and its kernels are there or can be compiled, else the CPU; <see cref="Reason"/> says why, and what to do.
    /// </summary>
    /// <param name="options">Options; the defaults when null.</param>
    public static Device Open(DeviceOptions? options = null)
    {
        options ??= new DeviceOptions();
        Lazy<KernelCompiler> compiler = Compiler(options);
        return Open(options, compiler, () => OpenCuda(0, options, compiler, "a usable GPU is there"));
    }

    /// <summary>Opens a GPU.</summary>
    /// <param name="ordinal">Its number, from 0, among those that the process may use.</param>
    /// <param name="options">Options; the defaults when null.</param>
    /// <remarks>Whether the kernels can be compiled shows when the first cache is made; <see cref="Open(DeviceOptions?)"/> looks beforehand.</remarks>
    /// <exception cref="DeviceUnavailableException">No driver, a driver too old, no such GPU, or one that the kernels can't run on.</exception>
    public static Device OpenCuda(int ordinal = 0, DeviceOptions? options = null)
    {
        options ??= new DeviceOptions();
        return OpenCuda(ordinal, options, Compiler(options), $"GPU {ordinal} was asked for");
    }

    /// <summary>Uses a context, and if wanted a stream, that another library made (ManagedCuda, ILGPU, TorchSharp).</summary>
    /// <param name="context">The context; its owner keeps it alive and disposes it after the device.</param>
    /// <param name="stream">The stream for calls that name none; a new one when null.</param>
    /// <param name="options">Options; the defaults when null.</param>
    /// <exception cref="DeviceUnavailableException">The GPU is one that the kernels can't run on.</exception>
    public static Device FromCuda(CudaContext context, CudaStream? stream = null, DeviceOptions? options = null)
    {
        ArgumentNullException.ThrowIfNull(context);
        options ??= new DeviceOptions();
        return Wrap(context, stream, options, Compiler(options), "another library's context was given");
    }

    /// <summary>Opens the CPU backend.</summary>
    /// <param name="options">Options; the defaults when null.</param>
    /// <remarks>
    /// A program published with NativeAOT uses the vectors of the oldest processor that it is compiled for: on x64 those of SSE, 128 bits
    /// wide. <c>&lt;IlcInstructionSet&gt;x86-64-v3&lt;/IlcInstructionSet&gt;</c> in its project file makes them AVX2's (2 to 3 times as
    /// fast), <c>x86-64-v4</c> AVX-512's; it does not start on a processor without them. A program that the JIT compiler runs needs nothing.
    /// </remarks>
    public static Device OpenCpu(DeviceOptions? options = null) => OpenCpu(options ?? new DeviceOptions(), "the CPU was asked for");

    /// <summary>The choice of <see cref="Open(DeviceOptions?)"/>, whatever opens the GPU.</summary>
    internal static Device Open(DeviceOptions options, Lazy<KernelCompiler> compiler, Func<Device> openGpu)
    {
        Device gpu;
        try
        {
            gpu = openGpu();
        }
        catch (DeviceUnavailableException e)
        {
            return OpenCpu(options, InOneLine($"no GPU can be used: {e.Summary}"));
        }
        catch (CudaDriverException e)
        {
            return OpenCpu(options, InOneLine($"no GPU can be used: {e.Message}"));
        }

        try
        {
            if (compiler.Value.WhyNoKernels((gpu.Backend as CudaBackend)?.Architecture) is not { } why)
            {
                return gpu;
            }

            Device cpu = OpenCpu(options, InOneLine($"kernels for {gpu.Name} cannot be compiled: {why}"));
            gpu.Dispose();
            return cpu;
        }
        catch
        {
            gpu.Dispose();
            throw;
        }
    }

    private static Device OpenCuda(int ordinal, DeviceOptions options, Lazy<KernelCompiler> compiler, string reason)
    {
        CudaContext context = CudaContext.Open(ordinal);
        try
        {
            Device device = Wrap(context, null, options, compiler, reason);
            device._ownedContext = context;
            return device;
        }
        catch
        {
            context.Dispose();
            throw;
        }
    }

    private static Device Wrap(CudaContext context, CudaStream? stream, DeviceOptions options, Lazy<KernelCompiler> compiler, string reason)
    {
        bool isChecked = options.ResolveChecked(Environment.GetEnvironmentVariable);
        if (options.Architecture is { } architecture)
        {
            CudaArchitecture.CheckRunnable(architecture, context.ComputeCapabilityMajor, context.ComputeCapabilityMinor);
        }

        KernelCompiler kernels = compiler.Value;
        CudaBackend backend = new(context, stream, (spec, owner) => new CudaAttentionKernels(spec, owner, kernels))
        {
            IsChecked = isChecked,
            Architecture = options.Architecture ?? context.Architecture,
            MergeKernels = (dtype, owner) => new CudaMergeKernel(owner, kernels, dtype),
        };
        return new Device(backend, DeviceKind.Cuda, context.Name, reason, options.LoggerFactory);
    }

    private static Device OpenCpu(DeviceOptions options, string reason)
    {
        ArgumentOutOfRangeException.ThrowIfLessThan(options.CpuThreads, 1);
        return new Device(
            new CpuBackend(options.CpuThreads) { IsChecked = options.ResolveChecked(Environment.GetEnvironmentVariable) },
            DeviceKind.Cpu,
            $"CPU ({RuntimeInformation.ProcessArchitecture}, {options.CpuThreads} {(options.CpuThreads == 1 ? "thread" : "threads")})",
            reason,
            options.LoggerFactory
        );
    }

    /// <summary>Made only once there is a GPU: it may have something to warn of, which a machine without one need not hear.</summary>
    private static Lazy<KernelCompiler> Compiler(DeviceOptions options) =>
        new(() => new KernelCompiler(options.Compiler, KernelHeaders.Embedded, NativeLocatorHost.System, options.LoggerFactory));

    private static string InOneLine(string reason) => reason.ReplaceLineEndings(" ");
}
