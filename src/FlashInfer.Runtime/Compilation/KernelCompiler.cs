using System.Diagnostics;
using System.Text;
using FlashInfer.Cuda;
using FlashInfer.Observability;
using Microsoft.Extensions.Logging;

namespace FlashInfer.Compilation;

/// <summary>
/// Turns translation units into cubins: from a bundle beside the program or the cache on disk when they have them, else with NVRTC.
/// Needs neither a GPU nor the driver, and compiles for any architecture that NVRTC knows. Safe to use from any number of threads and
/// processes.
/// </summary>
public sealed class KernelCompiler
{
    private readonly KernelCompilerOptions _options;
    private readonly KernelHeaders _headers;
    private readonly ILogger _log;
    private readonly NvrtcSelection _nvrtc;
    private readonly KernelBundles? _bundles;
    private readonly KernelCache? _cache;

    /// <summary>Makes a compiler. Nothing is searched or loaded before the first unit.</summary>
    /// <param name="options">Options; null for the defaults.</param>
    /// <exception cref="ArgumentException">A path of the options is empty.</exception>
    public KernelCompiler(KernelCompilerOptions? options = null)
        : this(options ?? new KernelCompilerOptions(), KernelHeaders.Embedded, NativeLocatorHost.System) { }

    internal KernelCompiler(KernelCompilerOptions options, KernelHeaders headers, NativeLocatorHost host, ILoggerFactory? loggers = null)
    {
        CheckPaths(options);
        _options = options;
        _headers = headers;
        _log = options.CreateLog(loggers);
        _nvrtc = new NvrtcSelection(host, options.NvrtcPath);
        if (options.UseBundles && !options.LineInfo)
        {
            _bundles = new KernelBundles(options.BundleDirectory ?? AppContext.BaseDirectory, headers, _log);
        }

        if (!options.UseCache)
        {
            return;
        }

        string profile = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        if ((options.CacheDirectory ?? KernelCache.DefaultFolder(host.Variable, profile, host.IsWindows)) is not { } folder)
        {
            _log.NoCacheFolder();
            return;
        }

        CacheDirectory = Path.GetFullPath(folder);
        _cache = new KernelCache(CacheDirectory, _log);
    }

    /// <summary>The folder of compiled kernels; null when none is used.</summary>
    public string? CacheDirectory { get; }

    /// <summary>Compiles a unit, or takes it from a bundle or the cache. Threads that ask for the same unit at once share one compile.</summary>
    /// <param name="unit">The unit.</param>
    /// <param name="architecture">A real architecture, such as <c>sm_90a</c>.</param>
    /// <param name="cancellationToken">Ends the wait before a compile; NVRTC itself cannot be interrupted.</param>
    /// <exception cref="ArgumentException">The architecture is malformed.</exception>
    /// <exception cref="KernelCompilationException">NVRTC is missing or refused the unit; the message says all that is known.</exception>
    /// <exception cref="OperationCanceledException">The token was cancelled.</exception>
    public CompiledKernel Compile(TranslationUnit unit, string architecture, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(unit);
        NvrtcOptions.CheckArchitecture(architecture);
        cancellationToken.ThrowIfCancellationRequested();
        using Activity? activity = Telemetry.StartLoad(unit.Name, architecture);
        Request request = new(unit, architecture, NvrtcOptions.For(architecture, _options.LineInfo), Stopwatch.GetTimestamp())
        {
            Activity = activity,
        };
        if (FromBundle(request, architecture) is { } bundled)
        {
            return bundled;
        }

        try
        {
            // Once around, unless the located NVRTC turned out not to load and another one took its place: then under that one's key.
            while (true)
            {
                string identity = _nvrtc.LocatedIdentity ?? Load(request).Identity;
                byte[] key = KernelCacheKey.Create(unit, _headers, request.Options, identity);
                string? path = _cache?.PathOf(unit.Name, architecture, key);
                CompiledKernel? kernel = FromCache(request, path, key) ?? CompileOnce(request, identity, path, key, cancellationToken);
                if (kernel is not null)
                {
                    return kernel;
                }
            }
        }
        catch (KernelCompilationException e)
        {
            // The last resort: a GPU newer than the bundle, on a machine without an NVRTC that knows it.
            if (FromBundle(request, KernelBundle.PtxArchitecture) is { } ptx)
            {
                return ptx;
            }

            _log.CompileFailed(unit.Name, architecture, e.Message);
            Telemetry.LoadFailed(activity, architecture, e, request.Elapsed);
            throw;
        }
    }

    /// <summary>Takes a unit from a bundle or the cache; null when neither has it. Compiles nothing.</summary>
    internal CompiledKernel? Find(TranslationUnit unit, string architecture)
    {
        NvrtcOptions.CheckArchitecture(architecture);
        Request request = new(unit, architecture, NvrtcOptions.For(architecture, _options.LineInfo), Stopwatch.GetTimestamp());
        if (FromBundle(request, architecture) is { } bundled)
        {
            return bundled;
        }

        if (_cache is null || (_nvrtc.LocatedIdentity ?? _nvrtc.Load()?.Identity) is not { } identity)
        {
            return null;
        }

        byte[] key = KernelCacheKey.Create(unit, _headers, request.Options, identity);
        return FromCache(request, _cache.PathOf(unit.Name, architecture, key), key);
    }

    /// <summary>Compiles a unit to PTX, the text that NVRTC makes a cubin of; never from a cache. Exceptions as <see cref="Compile"/>.</summary>
    internal string CompileToPtx(TranslationUnit unit, string architecture)
    {
        NvrtcOptions.CheckArchitecture(architecture);
        Request request = new(unit, architecture, NvrtcOptions.ForPtx(architecture, _options.LineInfo), Stopwatch.GetTimestamp());
        NvrtcLibrary library = Load(request);
        NvrtcOutput output = Run(request, library, toPtx: true);
        return output.Error is null ? Encoding.UTF8.GetString(output.Image).TrimEnd('\0') : throw Refused(request, library, output);
    }

    /// <summary>Compiles a unit to what <see cref="KernelBundle.PtxArchitecture"/> stands for. Exceptions as <see cref="Compile"/>.</summary>
    internal CompiledKernel CompilePtx(TranslationUnit unit)
    {
        long start = Stopwatch.GetTimestamp();
        string ptx = CompileToPtx(unit, "sm" + KernelBundle.PtxArchitecture["compute".Length..]);
        return new CompiledKernel(
            unit.Name,
            KernelBundle.PtxArchitecture,
            Encoding.UTF8.GetBytes(ptx),
            "",
            $"NVRTC {_nvrtc.Load()!.Version}",
            KernelOrigin.Compiled,
            Stopwatch.GetElapsedTime(start)
        );
    }

    /// <summary>Locates and loads NVRTC and says which one it is, or why there is none: for diagnostics.</summary>
    public NvrtcInfo DescribeNvrtc()
    {
        NvrtcLibrary? library = _nvrtc.Load();
        return new NvrtcInfo(
            library?.Candidate.Path,
            library?.Version,
            library is null ? [] : NvrtcLibrary.SupportedArchitectures(),
            _nvrtc.Trace
        );
    }

    /// <summary>
    /// Why there are no kernels for an architecture and what to do about it, in one line; null when a bundle has some, or an NVRTC is there,
    /// which is not loaded for the answer.
    /// </summary>
    internal string? WhyNoKernels(string? architecture) =>
        _bundles is not null && (_bundles.Serve(KernelBundle.PtxArchitecture) || (architecture is not null && _bundles.Serve(architecture)))
            ? null
        : _nvrtc.IsAvailable ? null
        : MissingSummary(_nvrtc.Override);

    /// <summary>Says that NVRTC is missing and what to do about it.</summary>
    internal static string MissingSummary(string? overridePath) =>
        "NVRTC, CUDA's run-time compiler, "
        + (
            overridePath is null
                ? "was not found. Set FLASHINFER_NVRTC to the folder that holds it: libnvrtc.so.12 or newer (nvrtc64_120_0.dll on Windows), which comes with the CUDA toolkit and with the Python package nvidia-cuda-nvrtc."
                : $"cannot be used from '{overridePath}'. Correct FLASHINFER_NVRTC (or NvrtcPath of the options) to the library or its folder, or remove it to have the usual places searched."
        );

    /// <summary>Says what needs NVRTC, that it is missing, what to do about it, and what was tried.</summary>
    internal static string MissingMessage(string what, string? overridePath, IReadOnlyList<NativeSearchStep> trace, string? bundles = null)
    {
        StringBuilder message = new();
        message.Append($"{what} has to be compiled, and {MissingSummary(overridePath)}");
        if (bundles is not null)
        {
            message.Append($"\nIt is not among the kernels compiled ahead of time: {bundles}. ");
            message.Append("Build the program again with this architecture in FlashInferArchitectures.");
        }

        message.Append("\nTried:");
        foreach (NativeSearchStep step in trace)
        {
            message.Append("\n  ").Append(step);
        }

        return message.ToString();
    }

    private static void CheckPaths(KernelCompilerOptions options)
    {
        Check(options.CacheDirectory, nameof(options.CacheDirectory));
        Check(options.BundleDirectory, nameof(options.BundleDirectory));
        Check(options.NvrtcPath, nameof(options.NvrtcPath));

        static void Check(string? path, string name)
        {
            if (path is not null && string.IsNullOrWhiteSpace(path))
            {
                throw new ArgumentException($"{name} is '{path}'; give a path, or null for the default.", nameof(options));
            }
        }
    }

    private CompiledKernel? FromBundle(Request request, string architecture)
    {
        if (_bundles?.Find(request.Unit, architecture) is not { } found)
        {
            return null;
        }

        CompiledKernel kernel = new(
            request.Unit.Name,
            architecture,
            found.Cubin,
            found.Entry.Log,
            found.Entry.Compiler,
            KernelOrigin.Bundle,
            request.Elapsed
        );
        if (kernel.IsPtx)
        {
            _log.LoadedPtx(kernel.Unit, request.Architecture, found.Bundle.Path);
        }
        else
        {
            _log.LoadedFromBundle(kernel.Unit, kernel.Architecture, found.Bundle.Path, kernel.Elapsed.TotalMilliseconds);
        }

        Telemetry.Loaded(request.Activity, kernel.Architecture, kernel.Origin, kernel.Elapsed);
        return kernel;
    }

    private CompiledKernel? FromCache(Request request, string? path, byte[] key)
    {
        if (path is null || KernelCache.Read(path, key) is not { } entry)
        {
            return null;
        }

        CompiledKernel kernel = new(
            request.Unit.Name,
            request.Architecture,
            entry.Cubin,
            entry.Log,
            entry.Compiler,
            KernelOrigin.Cache,
            request.Elapsed
        );
        _log.LoadedFromCache(kernel.Unit, kernel.Architecture, path, kernel.Elapsed.TotalMilliseconds);
        Telemetry.Loaded(request.Activity, kernel.Architecture, kernel.Origin, kernel.Elapsed);
        return kernel;
    }

    /// <summary>Compiles and stores; null when the NVRTC that was loaded is not the one that the key was made for.</summary>
    private CompiledKernel? CompileOnce(Request request, string identity, string? path, byte[] key, CancellationToken cancellationToken)
    {
        using CompileSlot slot = CompileSlot.Enter($"{CacheDirectory}|{Convert.ToHexStringLower(key)}", cancellationToken);
        if ((slot.Result ?? FromCache(request, path, key)) is { } ready)
        {
            return ready;
        }

        NvrtcLibrary library = Load(request);
        if (library.Identity != identity)
        {
            return null;
        }

        cancellationToken.ThrowIfCancellationRequested();
        _log.CompileStarted(request.Unit.Name, request.Architecture, library.Version);
        NvrtcOutput output = Run(request, library, toPtx: false);
        if (output.Error is not null)
        {
            throw Refused(request, library, output);
        }

        string compiler = $"NVRTC {library.Version}";
        CompiledKernel kernel = new(
            request.Unit.Name,
            request.Architecture,
            output.Image,
            output.Log,
            compiler,
            KernelOrigin.Compiled,
            request.Elapsed
        );
        slot.Result = kernel;
        if (path is not null)
        {
            _cache!.Write(path, key, new KernelCacheEntry(request.Architecture, compiler, output.Log, output.Image));
        }

        _log.Compiled(kernel.Unit, kernel.Architecture, kernel.Elapsed.TotalMilliseconds);
        Telemetry.Loaded(request.Activity, kernel.Architecture, kernel.Origin, kernel.Elapsed);
        foreach (string note in PtxasReport.PerformanceNotes(output.Log))
        {
            _log.PerformanceNote(kernel.Unit, kernel.Architecture, note);
        }

        return kernel;
    }

    private NvrtcOutput Run(Request request, NvrtcLibrary library, bool toPtx)
    {
        using Activity? activity = Telemetry.StartCompile(request.Unit.Name, request.Architecture, library.Version);
        NvrtcOutput output = NvrtcLibrary.Compile(
            request.Unit.Name + ".cu",
            request.Unit.Source.Span,
            _headers.Texts,
            _headers.Names,
            request.Options,
            toPtx
        );
        GC.KeepAlive(_headers);
        return output;
    }

    private NvrtcLibrary Load(Request request)
    {
        NvrtcLibrary library = _nvrtc.Load() ?? throw Missing(request);
        return library.Version >= NvrtcOptions.OldestNvrtc
            ? library
            : throw Failure(
                request,
                library,
                $"{request} has to be compiled, but the NVRTC found is {library.Version} ({library.Candidate.Path}); expected {NvrtcOptions.OldestNvrtc} or newer. Install a newer CUDA toolkit or nvidia-cuda-nvrtc, or set FLASHINFER_NVRTC to one.",
                ""
            );
    }

    private KernelCompilationException Missing(Request request) =>
        Failure(request, null, MissingMessage(request.ToString(), _nvrtc.Override, _nvrtc.Trace, _bundles?.Describe()), "");

    private static KernelCompilationException Refused(Request request, NvrtcLibrary library, NvrtcOutput output)
    {
        StringBuilder message = new();
        message.Append($"NVRTC {library.Version} refused {request}: {output.Error}.\n");
        message.Append(output.Log.Length == 0 ? "(its log is empty)" : output.Log);
        message.Append($"\nNVRTC: {library.Candidate.Path}, which compiles for ");
        message.AppendJoin(' ', NvrtcLibrary.SupportedArchitectures().Select(architecture => $"sm_{architecture}"));
        message.Append("\nOptions: ").AppendJoin(' ', request.Options);
        return Failure(request, library, message.ToString(), output.Log);
    }

    private static KernelCompilationException Failure(Request request, NvrtcLibrary? library, string message, string log) =>
        new(request.Unit.Name, request.Architecture, message, log, request.Options, request.Unit.ToString())
        {
            NvrtcVersion = library?.Version,
            NvrtcPath = library?.Candidate.Path,
        };

    private sealed record Request(TranslationUnit Unit, string Architecture, IReadOnlyList<string> Options, long Start)
    {
        public Activity? Activity { get; init; }

        public TimeSpan Elapsed => Stopwatch.GetElapsedTime(Start);

        public override string ToString() => $"unit '{Unit.Name}' for {Architecture}";
    }
}
