using System.IO.Compression;
using System.Reflection;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Tools;

/// <summary>The package as a stranger gets it: from a feed, into an empty project.</summary>
/// <remarks>
/// Nothing is asked of the network: what the package needs comes from this machine's NuGet folder, where building this repository has put it.
/// </remarks>
public sealed partial class PackageTests : IClassFixture<PackageTests.Feed>
{
    private const int LargestPackage = 5_000_000;

    private readonly Feed _feed;

    public PackageTests(Feed feed) => _feed = feed;

    [Fact]
    public void It_holds_what_a_project_needs_and_is_small()
    {
        using ZipArchive package = ZipFile.OpenRead(_feed.Package);
        string[] files = [.. package.Entries.Select(static entry => entry.FullName)];
        Assert.All(
            [
                "lib/net10.0/FlashInfer.Runtime.dll",
                "lib/net10.0/FlashInfer.Runtime.xml",
                "analyzers/dotnet/cs/FlashInfer.Generators.dll",
                "buildTransitive/FlashInfer.targets",
                "tools/net10.0/flashinfer.dll",
                "tools/net10.0/flashinfer.runtimeconfig.json",
                "tools/net10.0/FlashInfer.Runtime.dll",
                "README.md",
                "icon.png",
            ],
            file => Assert.Contains(file, files)
        );
        Assert.DoesNotContain(files, static file => file.EndsWith(".pdb", StringComparison.Ordinal));
        Assert.InRange(new FileInfo(_feed.Package).Length, 1, LargestPackage);

        XElement metadata = XDocument.Load(package.GetEntry("FlashInfer.nuspec")!.Open()).Root!.Elements().First();
        string[] dependencies =
        [
            .. metadata
                .Descendants()
                .Where(static element => element.Name.LocalName == "dependency")
                .Select(static element => element.Attribute("id")!.Value),
        ];
        Assert.Equal(["Microsoft.Extensions.Logging.Abstractions", "System.Numerics.Tensors"], dependencies);

        using ZipArchive symbols = ZipFile.OpenRead(Path.ChangeExtension(_feed.Package, ".snupkg"));
        Assert.Contains(symbols.Entries, static entry => entry.FullName == "lib/net10.0/FlashInfer.Runtime.pdb");
    }

    [SkippableFact]
    public void The_README_s_program_runs_from_the_package()
    {
        _feed.RequireRestored();

        ToolResult run = _feed.Dotnet(["run", "--no-restore"], ("FLASHINFER_NVRTC", "/nowhere"));

        Assert.True(run.ExitCode == 0, run.ToString());
    }

    [SkippableFact]
    public void A_build_compiles_the_kernels_ahead_of_time_when_asked_to()
    {
        string nvrtc = TestNvrtc.Require();
        _feed.RequireRestored();

        ToolResult build = _feed.Dotnet(
            [
                "build",
                "--no-restore",
                "-p:FlashInferAheadOfTime=true",
                "-p:FlashInferArchitectures=\"sm_80;sm_90a\"",
                "-p:FlashInferKernels=Append",
                $"-p:FlashInferNvrtc={nvrtc}",
                "-o",
                "out",
            ],
            ("FLASHINFER_CACHE_DIR", _feed.Path("kernel cache"))
        );

        Assert.True(build.ExitCode == 0, build.ToString());
        Assert.Contains("App.fikernels: 2 kernels of 1 configuration for sm_80, sm_90a", build.Output, StringComparison.Ordinal);
        KernelBundle bundle = KernelBundle.Open(_feed.Path("App/out/App.fikernels"));
        Assert.Equal(["sm_80", "sm_90a"], bundle.Entries.Select(static entry => entry.Architecture));
    }

    [SkippableFact]
    public void A_build_that_cannot_compile_kernels_says_why()
    {
        _feed.RequireRestored();

        ToolResult build = _feed.Dotnet(
            ["build", "--no-restore", "-p:FlashInferAheadOfTime=true", "-p:FlashInferNvrtc=/nowhere", "-v", "quiet"],
            ("FLASHINFER_CACHE_DIR", _feed.Path("empty cache"))
        );

        Assert.Equal(1, build.ExitCode);
        Assert.Matches(
            @"flashinfer : error : unit '[^']+' for sm_\w+ has to be compiled, and NVRTC, .* cannot be used from '/nowhere'",
            build.Output
        );
        Assert.Contains("or set FlashInferAheadOfTime to false where there is none.", build.Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_compiler_too_old_for_the_generator_is_an_error_of_one_sentence()
    {
        _feed.RequireRestored();

        ToolResult build = _feed.Dotnet(["build", "--no-restore", "-p:CompilerApiVersion=roslyn4.14"]);

        Assert.Equal(1, build.ExitCode);
        Assert.Contains(
            "error FI9001: The source generator of FlashInfer needs the C# compiler of the .NET SDK 10.0.100 or newer (Roslyn 5.0), but this build uses roslyn4.14",
            build.Output,
            StringComparison.Ordinal
        );
    }

    /// <summary>Packs once, and makes a project that uses the package.</summary>
    public sealed partial class Feed : IDisposable
    {
        private readonly TemporaryFolder _folder = new();
        private readonly ToolResult _restore;

        public Feed()
        {
            string root = Metadata("RepositoryRoot");
            string feed = Path("feed");
            ToolResult pack = ToolProcess.RunDotnet(
                root,
                ["pack", "src/FlashInfer.Runtime", "--no-build", "-c", Metadata("Configuration"), "-o", feed]
            );
            Assert.True(pack.ExitCode == 0, pack.ToString());
            Package = Assert.Single(Directory.GetFiles(feed, "FlashInfer.*.nupkg"));

            Directory.CreateDirectory(Path("App"));
            File.WriteAllText(Path("App/App.csproj"), Project(Version().Match(Package).Value));
            File.WriteAllText(Path("App/Program.cs"), ReadmeProgram(File.ReadAllText(System.IO.Path.Combine(root, "README.md"))));
            File.WriteAllText(Path("App/nuget.config"), Sources(feed));
            _restore = Dotnet(["restore"]);
        }

        /// <summary>The package's file.</summary>
        internal string Package { get; }

        /// <summary>A path in the folder of these tests.</summary>
        internal string Path(string name) => _folder.File(name);

        /// <summary>Skips the test where the project could not be restored.</summary>
        internal void RequireRestored() =>
            Skip.If(
                _restore.ExitCode != 0,
                $"The package's dependencies are not in this machine's NuGet folder; restore this repository first. {_restore.Output}"
            );

        /// <summary>Runs dotnet on the project.</summary>
        internal ToolResult Dotnet(IEnumerable<string> arguments, params IEnumerable<(string, string)> variables) =>
            ToolProcess.RunDotnet(Path("App"), arguments, [.. variables, ("DOTNET_CLI_TELEMETRY_OPTOUT", "1"), ("DOTNET_NOLOGO", "1")]);

        public void Dispose() => _folder.Dispose();

        private static string Metadata(string key) =>
            typeof(PackageTests).Assembly.GetCustomAttributes<AssemblyMetadataAttribute>().Single(attribute => attribute.Key == key).Value!;

        private static string Project(string version) =>
            $"""
                <Project Sdk="Microsoft.NET.Sdk">
                  <PropertyGroup>
                    <OutputType>Exe</OutputType>
                    <TargetFramework>net10.0</TargetFramework>
                    <ImplicitUsings>enable</ImplicitUsings>
                    <Nullable>enable</Nullable>
                    <TreatWarningsAsErrors>true</TreatWarningsAsErrors>
                    <RestorePackagesPath>$(MSBuildProjectDirectory)/../packages</RestorePackagesPath>
                    <NuGetAudit>false</NuGetAudit>
                  </PropertyGroup>
                  <ItemGroup>
                    <PackageReference Include="FlashInfer" Version="{version}" />
                  </ItemGroup>
                </Project>
                """;

        private static string Sources(string feed)
        {
            string machine =
                Environment.GetEnvironmentVariable("NUGET_PACKAGES")
                ?? System.IO.Path.Combine(Environment.GetFolderPath(Environment.SpecialFolder.UserProfile), ".nuget", "packages");
            return $"""
                <configuration>
                  <packageSources>
                    <clear />
                    <add key="built" value="{feed}" />
                    <add key="machine" value="{machine}" />
                  </packageSources>
                </configuration>
                """;
        }

        /// <summary>The longest C# block: a whole program.</summary>
        private static string ReadmeProgram(string readme) =>
            Block().Matches(readme).Select(static m => m.Groups[1].Value).MaxBy(static code => code.Length)!;

        [GeneratedRegex(@"```csharp\n(.*?)```", RegexOptions.Singleline)]
        private static partial Regex Block();

        [GeneratedRegex(@"(?<=FlashInfer\.)\d+\.\d+\.\d+[^/\\]*(?=\.nupkg$)")]
        private static partial Regex Version();
    }
}
