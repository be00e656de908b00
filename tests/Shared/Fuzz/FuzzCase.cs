using System.Globalization;
using System.Reflection;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.Emit;

namespace FlashInfer.Tests.Fuzz;

/// <summary>A random variant, its CUDA text, what it was asked, and what C# answered.</summary>
/// <param name="Seed">The seed that it comes from.</param>
/// <param name="Source">The C#.</param>
/// <param name="Cuda">The text that it was lowered to.</param>
/// <param name="Data">What it was asked, see <see cref="FuzzData"/>.</param>
/// <param name="Expected">What C# answered.</param>
/// <param name="Threw">Where C# threw instead.</param>
internal sealed record FuzzCase(int Seed, string Source, string Cuda, uint[] Data, uint[] Expected, bool[] Threw)
{
    public const int Rows = 64;

    private const string Head = """
        global using System;
        global using System.Numerics;
        global using FlashInfer;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class Subject
        {

        """;

    /// <summary>The seeds of a run: the one that the environment or the clock gives, and those after it.</summary>
    /// <param name="programs">How many, where the environment does not say.</param>
    public static IEnumerable<int> Seeds(int programs) =>
        Enumerable.Range(FromEnvironment("SEED", Environment.TickCount & 0xFFFFFF), FromEnvironment("PROGRAMS", programs));

    private static int FromEnvironment(string name, int otherwise) =>
        Environment.GetEnvironmentVariable($"FLASHINFER_FUZZ_{name}") is { Length: > 0 } given
            ? int.Parse(given, CultureInfo.InvariantCulture)
            : otherwise;

    /// <summary>Makes a case of C#: lowers it, compiles it, runs it.</summary>
    /// <param name="seed">The seed that the C# comes from, and that of what it is asked.</param>
    /// <param name="members">The configuration's members: those of a <see cref="FuzzProgram"/>, or others with its hooks and arguments.</param>
    /// <param name="references">.NET and the runtime.</param>
    /// <param name="lower">The generator: from a configuration to CUDA.</param>
    public static FuzzCase Make(
        int seed,
        string members,
        IEnumerable<MetadataReference> references,
        Func<INamedTypeSymbol, Microsoft.CodeAnalysis.Compilation, string?> lower
    )
    {
        string source = Head + members + "}\n";
        CSharpParseOptions parse = new(LanguageVersion.CSharp14);
        CSharpCompilation compilation = CSharpCompilation.Create(
            "Fuzz",
            [CSharpSyntaxTree.ParseText(source, parse), CSharpSyntaxTree.ParseText(FuzzData.Driver, parse)],
            references,
            // What C# says is asked of code that is not optimised: RyuJIT's optimiser departs from it, see CSharp_is_asked_unoptimised.
            new CSharpCompilationOptions(OutputKind.DynamicallyLinkedLibrary, optimizationLevel: OptimizationLevel.Debug)
        );
        using MemoryStream image = new();
        EmitResult result = compilation.Emit(image);
        IEnumerable<Diagnostic> errors = result.Diagnostics.Where(static d => d.Severity == DiagnosticSeverity.Error);
        Assert.True(result.Success, $"seed {seed} does not compile: {string.Join('\n', errors)}\n{source}");
        string cuda = lower(compilation.GetTypeByMetadataName("Subject")!, compilation) ?? "";
        Assert.True(cuda.Length > 0, $"seed {seed} cannot be lowered\n{source}");

        uint[] data = FuzzData.Words(new Random(seed), Rows);
        uint[] expected = new uint[Rows * FuzzData.ResultWords];
        bool[] threw = new bool[expected.Length];
        MethodInfo driver = Assembly.Load(image.ToArray()).GetType("Driver")!.GetMethod("Run")!;
        driver.Invoke(null, [data, expected, threw]);
        return new FuzzCase(seed, source, cuda, data, expected, threw);
    }

    /// <summary>Fails unless another machine answered the same, bit for bit, wherever C# answered. Any NaN is like any other.</summary>
    /// <returns>How many answers were compared.</returns>
    public int Check(ReadOnlySpan<uint> actual)
    {
        int compared = 0;
        for (int i = 0; i < Expected.Length; i++)
        {
            if (Threw[i])
            {
                continue;
            }

            compared++;
            bool isFloat = i % FuzzData.ResultWords is not (1 or 2);
            bool isSame =
                Expected[i] == actual[i]
                || (
                    isFloat
                    && float.IsNaN(BitConverter.UInt32BitsToSingle(Expected[i]))
                    && float.IsNaN(BitConverter.UInt32BitsToSingle(actual[i]))
                );
            Assert.True(
                isSame,
                $"seed {Seed}, row {i / FuzzData.ResultWords}, hook {i % FuzzData.ResultWords}: C# {Expected[i]:x8}, CUDA {actual[i]:x8}\n{Source}\n{Cuda}"
            );
        }

        return compared;
    }
}
