using FlashInfer.Compilation;
using FlashInfer.Cuda;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Devices;

/// <summary>What <see cref="Device.Open(DeviceOptions?)"/> chooses and says, with a device of another kind in the GPU's place.</summary>
public sealed class DeviceChoiceTests
{
    private static readonly DeviceOptions Options = new() { CpuThreads = 1 };

    [Fact]
    public void A_gpu_with_a_compiler_is_used()
    {
        // Files that no loader would take: the answer comes without loading them.
        FakeHost host = new FakeHost()
            .Set("FLASHINFER_NVRTC", "/cuda/lib")
            .Add("/cuda/lib/libnvrtc.so.12", "/cuda/lib/libnvrtc-builtins.so.12.4");
        using Device gpu = Device.OpenCpu(Options);

        using Device device = Device.Open(Options, Compiler(host), () => gpu);

        Assert.Same(gpu, device);
        Assert.False(gpu.IsDisposed);
    }

    [Fact]
    public void A_gpu_without_a_compiler_is_passed_over_with_cause_and_remedy()
    {
        FakeHost host = new FakeHost().Set("FLASHINFER_NVRTC", "/nowhere");
        using Device gpu = Device.OpenCpu(Options);

        using Device device = Device.Open(Options, Compiler(host), () => gpu);

        Assert.True(gpu.IsDisposed);
        Assert.Equal(DeviceKind.Cpu, device.Kind);
        Assert.Equal(
            $"kernels for {gpu.Name} cannot be compiled: NVRTC, CUDA's run-time compiler, cannot be used from '/nowhere'. Correct "
                + "FLASHINFER_NVRTC (or NvrtcPath of the options) to the library or its folder, or remove it to have the usual places searched.",
            device.Reason
        );
    }

    [Fact]
    public void A_missing_driver_is_told_with_the_remedy_and_without_the_places()
    {
        Lazy<KernelCompiler> compiler = Compiler(new FakeHost());
        using Device device = Device.Open(Options, compiler, () => throw CudaInitialization.NotLoaded([new("/a", "gone")]));

        Assert.False(compiler.IsValueCreated);
        Assert.Equal(
            "no GPU can be used: The NVIDIA driver's CUDA library cannot be loaded. Install the driver, or, in a container, start the "
                + "container with GPUs.",
            device.Reason
        );
    }

    [Fact]
    public void A_failing_driver_is_told_in_one_line()
    {
        CudaDriverException failure = new("cuInit", 46, "CUDA_ERROR_DEVICE_UNAVAILABLE", "cuInit failed.\nFirst do this. Then that.");

        using Device device = Device.Open(Options, Compiler(new FakeHost()), () => throw failure);

        Assert.Equal("no GPU can be used: cuInit failed. First do this. Then that.", device.Reason);
    }

    [Fact]
    public void Other_failures_are_not_hidden_behind_the_cpu() =>
        Assert.Throws<FlashInferException>(() =>
            Device.Open(Options, Compiler(new FakeHost()), () => throw new FlashInferException("The GPU burns."))
        );

    [Fact]
    public void The_real_machine_gets_a_device_and_a_reason_of_one_line()
    {
        using Device device = Device.Open();

        Assert.NotEmpty(device.Reason);
        Assert.DoesNotContain('\n', device.Reason);
        Assert.DoesNotContain("Tried", device.Reason, StringComparison.Ordinal);
    }

    private static Lazy<KernelCompiler> Compiler(FakeHost host) =>
        new(() => new KernelCompiler(new KernelCompilerOptions { UseCache = false }, TestUnits.Headers(), host));
}
