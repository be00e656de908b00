using System.Runtime.InteropServices;
using FlashInfer.Compilation;
using FlashInfer.Cuda;

namespace FlashInfer.Tool;

/// <summary>Finds out what this machine runs, and the one thing to do next when it could run more.</summary>
internal static class Doctor
{
    // What the kernels are asked for, to learn their name on this machine.
    private static readonly AttentionSpec s_spec = new(heads: 8, kvHeads: 8, headDim: 128, pageSize: 16, DType.BFloat16);

    /// <summary>Examines the machine.</summary>
    /// <param name="program">The folder of a program whose bundles count; null for none.</param>
    /// <param name="options">Where NVRTC and the cache are, when not in the usual places.</param>
    public static DoctorReport Examine(string? program, KernelCompilerOptions options)
    {
        DriverReport driver = ExamineDriver(out DeviceReport[] devices);
        NvrtcReport nvrtc = ExamineNvrtc(new KernelCompiler(options));
        CacheReport cache = ExamineCache(options.CacheDirectory);
        BundleReport[] bundles = program is null ? [] : ExamineBundles(program);
        RunsReport runs = ExamineRun(options, bundles);
        return new DoctorReport(
            typeof(Device).Assembly.GetName().Version!.ToString(3),
            RuntimeInformation.FrameworkDescription,
            $"{RuntimeInformation.OSDescription} ({RuntimeInformation.ProcessArchitecture})",
            driver,
            devices,
            nvrtc,
            cache,
            bundles,
            runs,
            Next(driver, devices, nvrtc, cache, bundles)
        );
    }

    private static DriverReport ExamineDriver(out DeviceReport[] devices)
    {
        devices = [];
        try
        {
            int version = CudaInitialization.Ensure();
            devices = [.. Enumerable.Range(0, CudaContext.DeviceCount).Select(ExamineDevice)];
            return new DriverReport(CudaInitialization.Dotted(version), null, []);
        }
        catch (DeviceUnavailableException e)
        {
            return new DriverReport(null, e.Summary, Tried(e.Tried));
        }
    }

    private static DeviceReport ExamineDevice(int ordinal)
    {
        try
        {
            using CudaContext context = CudaContext.Open(ordinal);
            string? problem = null;
            try
            {
                Device.FromCuda(context).Dispose();
            }
            catch (DeviceUnavailableException e)
            {
                problem = e.Summary;
            }

            return new DeviceReport(ordinal, context.Name, context.Architecture, context.MultiprocessorCount, context.TotalMemory, problem);
        }
        catch (Exception e) when (e is DeviceUnavailableException or CudaDriverException)
        {
            return new DeviceReport(ordinal, "", null, 0, 0, e.Message);
        }
    }

    private static NvrtcReport ExamineNvrtc(KernelCompiler compiler)
    {
        NvrtcInfo nvrtc = compiler.DescribeNvrtc();
        string? problem =
            nvrtc.Version is null ? compiler.WhyNoKernels(null)
            : nvrtc.Version < NvrtcOptions.OldestNvrtc ? $"NVRTC {nvrtc.Version} is too old; {NvrtcOptions.OldestNvrtc} or newer is needed."
            : null;
        return new NvrtcReport(
            nvrtc.Path,
            nvrtc.Version?.ToString(),
            [.. nvrtc.Architectures.Select(static number => $"sm_{number}")],
            problem,
            Tried(nvrtc.Trace)
        );
    }

    private static CacheReport ExamineCache(string? named)
    {
        string folder;
        try
        {
            folder = CacheCommand.Folder(named);
        }
        catch (ToolException e)
        {
            return new CacheReport(null, 0, 0, e.Message);
        }

        string? problem = null;
        try
        {
            Directory.CreateDirectory(folder);
            string probe = Path.Combine(folder, $"probe-{Guid.NewGuid():N}.tmp");
            File.WriteAllBytes(probe, []);
            File.Delete(probe);
        }
        catch (Exception e) when (e is IOException or UnauthorizedAccessException)
        {
            problem = $"The folder cannot be written: {e.Message}";
        }

        string[] files = CacheCommand.Files(folder);
        return new CacheReport(folder, files.Length, files.Sum(static file => new FileInfo(file).Length), problem);
    }

    private static BundleReport[] ExamineBundles(string folder)
    {
        if (!Directory.Exists(folder))
        {
            throw new ToolException(ExitCode.Usage, $"The folder '{folder}' is not there; give the one that the program lies in.");
        }

        return [.. Directory.GetFiles(folder, $"*{KernelBundle.Extension}").Order(StringComparer.Ordinal).Select(ExamineBundle)];
    }

    private static BundleReport ExamineBundle(string path)
    {
        try
        {
            KernelBundle bundle = KernelBundle.Open(path);
            foreach (KernelBundleEntry entry in bundle.Entries)
            {
                bundle.Read(entry);
            }

            string[] architectures = [.. bundle.Entries.Select(static entry => entry.Architecture).Distinct()];
            return new BundleReport(path, architectures, bundle.Entries.Count, null);
        }
        catch (InvalidDataException e)
        {
            return new BundleReport(path, [], 0, $"It {e.Message}; build the program again.");
        }
    }

    /// <summary>Does what a program does, and reports what it got.</summary>
    private static RunsReport ExamineRun(KernelCompilerOptions options, BundleReport[] bundles)
    {
        using Device device = Device.Open(new DeviceOptions { Compiler = options });
        string kernels = device.Cuda is { } context
            ? bundles.Any(bundle => bundle.Architectures.Contains(context.Architecture))
                ? $"those of the bundle for {context.Architecture}"
                : $"compiled for {context.Architecture} at their first use"
            : device.Kernels(s_spec).Decode(queryTokens: 1).Name;
        return new RunsReport(device.Kind == DeviceKind.Cuda ? "cuda" : "cpu", device.Name, kernels, device.Reason);
    }

    private static string? Next(DriverReport driver, DeviceReport[] devices, NvrtcReport nvrtc, CacheReport cache, BundleReport[] bundles)
    {
        if (driver.Problem is not null)
        {
            return $"{driver.Problem} A machine without a GPU needs nothing.";
        }

        if (devices.Length == 0)
        {
            return "The driver shows no GPU: look at CUDA_VISIBLE_DEVICES, and in a container at how it was started.";
        }

        if (devices[0].Problem is { } problem)
        {
            return $"GPU 0 cannot be used: {problem} CUDA_VISIBLE_DEVICES chooses another.";
        }

        string architecture = devices[0].Architecture!;
        if (bundles.FirstOrDefault(static bundle => bundle.Problem is not null) is { } broken)
        {
            return $"{broken.Path}: {broken.Problem}";
        }

        if (!bundles.Any(bundle => bundle.Architectures.Contains(architecture)))
        {
            if (nvrtc.Problem is not null)
            {
                return $"{nvrtc.Problem} Or compile the program's kernels ahead of time, for {architecture}.";
            }

            if (!nvrtc.Architectures.Contains(architecture.TrimEnd('a')))
            {
                return $"NVRTC {nvrtc.Version} does not know {architecture}: install a newer one, or set FLASHINFER_NVRTC to it.";
            }

            if (Version.Parse(nvrtc.Version!).Major > Version.Parse(driver.CudaVersion!).Major)
            {
                return $"NVRTC {nvrtc.Version} is of a later major version than the driver's CUDA {driver.CudaVersion}, which may refuse its kernels: update the driver, or set FLASHINFER_NVRTC to an NVRTC of its version.";
            }
        }

        return cache.Problem is null
            ? null
            : $"{cache.Problem} Set FLASHINFER_CACHE_DIR to a folder that can be written, or every process compiles its kernels again.";
    }

    private static TriedReport[] Tried(IReadOnlyList<NativeSearchStep> steps) =>
        [.. steps.Select(static step => new TriedReport(step.Path, step.Outcome))];
}
