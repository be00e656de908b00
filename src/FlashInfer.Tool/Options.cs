using System.CommandLine;
using FlashInfer.Compilation;

namespace FlashInfer.Tool;

/// <summary>The options that several commands have, and what they mean.</summary>
internal static class Options
{
    /// <summary>What a bundle is compiled for when nothing is said: every GPU from Ampere to Hopper with all of its features.</summary>
    public static readonly string[] UsualArchitectures = ["sm_80", "sm_86", "sm_89", "sm_90a"];

    private static readonly char[] s_separators = [',', ';', ' '];

    private static readonly Dictionary<string, KernelKinds> s_kinds = Enum.GetValues<KernelKinds>()
        .Where(static kind => kind != KernelKinds.None)
        .ToDictionary(static kind => kind.ToString(), StringComparer.OrdinalIgnoreCase);

    public static Option<bool> Json { get; } =
        new("--json") { Description = "Write the answer as JSON, and nothing else, to the standard output.", Recursive = true };

    public static Argument<string> Assembly { get; } =
        new("assembly") { Description = "A built assembly (.dll) with [AttentionConfig] classes, or one that references such." };

    public static Option<string[]> Reference { get; } =
        new("--reference")
        {
            Description = "Assemblies that it references, where they do not lie beside it; separated by semicolons, or the option again.",
            HelpName = "PATHS",
        };

    public static Option<string> Architecture(string defaultWords) =>
        new("--architecture", "-a")
        {
            Description = $"The GPUs, such as sm_80 or sm_90a, separated by commas. {defaultWords}",
            HelpName = "LIST",
        };

    public static Option<string> Nvrtc { get; } =
        new("--nvrtc")
        {
            Description = "The NVRTC library or its folder, instead of FLASHINFER_NVRTC and the usual places.",
            HelpName = "PATH",
        };

    public static Option<string> CacheDirectory { get; } =
        new("--cache-dir")
        {
            Description = "The kernel cache, instead of FLASHINFER_CACHE_DIR and the user's cache folder.",
            HelpName = "FOLDER",
        };

    public static Option<string> Kernels { get; } =
        new("--kernels")
        {
            Description = $"Which kernels: {string.Join(", ", s_kinds.Keys)}; several are separated by commas.",
            HelpName = "KINDS",
            DefaultValueFactory = static _ => nameof(KernelKinds.All),
        };

    public static Option<bool> Checked { get; } =
        new("--checked") { Description = "The kernels of checked mode instead of the usual ones." };

    public static Option<int> Jobs { get; } =
        new("--jobs", "-j")
        {
            Description = "Compiles at a time.",
            HelpName = "N",
            DefaultValueFactory = static _ => Environment.ProcessorCount,
            Validators =
            {
                static result =>
                {
                    if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int n) && n < 1)
                    {
                        result.AddError($"--jobs is {n}; expected 1 or more.");
                    }
                },
            },
        };

    /// <summary>The architectures of a list; null when there is none.</summary>
    public static string[]? Architectures(string? list)
    {
        string[] names = [.. (list ?? "").Split(s_separators, StringSplitOptions.RemoveEmptyEntries).Distinct()];
        foreach (string name in names)
        {
            try
            {
                NvrtcOptions.CheckArchitecture(name);
            }
            catch (ArgumentException e)
            {
                throw new ToolException(ExitCode.Usage, e.Message.Split(" (Parameter")[0]);
            }
        }

        return names.Length == 0 ? null : names;
    }

    /// <summary>The configurations of the assembly that is named.</summary>
    public static IReadOnlyList<FoundConfig> Configs(ParseResult line) =>
        ConfigAssembly.Find(
            line.GetRequiredValue(Assembly),
            (line.GetValue(Reference) ?? []).SelectMany(static list =>
                list.Split(';', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries)
            )
        );

    /// <summary>Their units, each once: configurations of the same values share theirs.</summary>
    public static TranslationUnit[] Units(ParseResult line, IEnumerable<FoundConfig> configs, KernelKinds kinds)
    {
        bool isChecked = line.GetValue(Checked);
        return [.. configs.SelectMany(config => config.Spec.UnitsFor(kinds, isChecked)).DistinctBy(static unit => unit.Name)];
    }

    /// <summary>The kinds of kernels that are meant.</summary>
    public static KernelKinds Kinds(ParseResult line)
    {
        KernelKinds kinds = KernelKinds.None;
        foreach (string name in line.GetRequiredValue(Kernels).Split(s_separators, StringSplitOptions.RemoveEmptyEntries))
        {
            if (!s_kinds.TryGetValue(name, out KernelKinds kind))
            {
                throw new ToolException(ExitCode.Usage, $"--kernels names '{name}'; expected {string.Join(", ", s_kinds.Keys)}.");
            }

            kinds |= kind;
        }

        return kinds;
    }

    /// <summary>The compiler.</summary>
    /// <param name="line">The command line.</param>
    /// <param name="bundles">The folder of bundles to take kernels from; null for none.</param>
    public static KernelCompiler Compiler(ParseResult line, string? bundles = null) =>
        new(
            new KernelCompilerOptions
            {
                NvrtcPath = line.GetValue(Nvrtc),
                CacheDirectory = line.GetValue(CacheDirectory),
                UseBundles = bundles is not null,
                BundleDirectory = bundles,
                LoggerFactory = WarningNotes.Instance,
            }
        );
}
