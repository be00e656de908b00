using System.CommandLine;
using FlashInfer.Compilation;

namespace FlashInfer.Tool;

/// <summary>The options that several commands have, and what they mean.</summary>
internal static class Options
{
    /// <summary>What a bundle is compiled for when nothing is said: every GPU from Ampere to Hopper with all of its features.</summary>
    public static readonly string[] UsualArchitectures = ["sm_80", "sm_86", "sm_89", "sm_90a"];

    private static readonly char[] s_separators = [',', ';', ' '];

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

    public static Option<int> MaxQueryTokens { get; } =
        new("--max-query-tokens")
        {
            Description = "The most query tokens of a sequence that decode is compiled for, 1 to 8.",
            HelpName = "N",
            DefaultValueFactory = static _ => new UnitSelection().MaxQueryTokens,
            Validators =
            {
                static result =>
                {
                    if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int n) && n is < 1 or > 8)
                    {
                        result.AddError($"--max-query-tokens is {n}; expected 1 to 8.");
                    }
                },
            },
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

    /// <summary>Which of their units are meant.</summary>
    public static UnitSelection Selection(ParseResult line) =>
        new() { MaxQueryTokens = line.GetValue(MaxQueryTokens), IsChecked = line.GetValue(Checked) };

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
                OnWarning = Output.Note,
            }
        );
}
