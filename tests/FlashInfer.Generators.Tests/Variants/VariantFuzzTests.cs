using System.Diagnostics;
using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using FlashInfer.Generators.Parsing;
using FlashInfer.Generators.Tests.Harness;
using FlashInfer.Tests.Fuzz;
using Microsoft.CodeAnalysis;
using Xunit.Abstractions;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>
/// Random variants: what C# computes against what their CUDA text computes, compiled for the host by the C++ compiler with a check of
/// undefined behaviour. On a GPU <c>FlashInfer.Gpu.Tests</c> does the same.
/// </summary>
public sealed class VariantFuzzTests(ITestOutputHelper output)
{
    // At once: more make the C++ compiler slow.
    private const int Programs = 24;
    private const int Rows = FuzzCase.Rows;

    // As in attention/variant.cuh, which the host has no compiler for.
    private const string Preamble = """
        #include <cstdio>
        #include <vector>
        #include "core/csharp.cuh"

        namespace flashinfer {
        template <typename T>
        struct Span {
          const T* data;
          int length;
          int reserved0;
          T operator[](int at) const { return unsigned(at) < unsigned(length) ? data[at] : T(); }
        };
        struct LogitsContext {
          int head, kv_head, sequence, qo_index, qo_position, kv_position, qo_len, kv_len;
        };
        struct ElementContext {
          int head, kv_head, sequence, qo_index, qo_position, qo_len, kv_len, element;
        };
        struct NoVariant {};
        }  // namespace flashinfer


        """;

    [SkippableFact]
    public void CSharp_and_CUDA_compute_the_same()
    {
        Skip.If(Compiler() is null, "There is no g++ here, which compiles the CUDA text for the host.");
        foreach (int[] seeds in FuzzCase.Seeds(Programs).Chunk(Programs))
        {
            output.WriteLine($"FLASHINFER_FUZZ_SEED={seeds[0]}");
            FuzzCase[] cases = [.. seeds.Select(static seed => Make(seed, FuzzProgram.Members(seed, exactOnly: false)))];

            uint[][] results = RunOnHost(cases);

            int compared = cases.Select((one, i) => one.Check(results[i])).Sum();
            int asked = cases.Length * Rows * FuzzData.ResultWords;
            output.WriteLine($"{compared} of {asked} values compared");
            Assert.True(compared > asked / 2, $"only {compared} of {asked} values could be compared");
        }
    }

    /// <summary>
    /// -0 is less than 0, which RyuJIT forgets where it optimises this body: it makes <c>vminss</c> of it, and that says 0 (.NET 10.0.12,
    /// https://github.com/dotnet/runtime/issues/130831). So code that is not optimised tells what C# means.
    /// </summary>
    [SkippableFact]
    public void CSharp_is_asked_unoptimised()
    {
        Skip.If(Compiler() is null, "There is no g++ here, which compiles the CUDA text for the host.");
        FuzzCase one = Make(
            0,
            FuzzProgram.Arguments
                + """
                    [LogitsTransform]
                    public static float Transform(float logit, in LogitsContext at, in Arguments a) => MathF.Min(a.Flag ? 0f : logit, -0f);

                    [LogitsMask]
                    public static bool Keep(in LogitsContext at, in Arguments a) => true;

                    [FirstKey]
                    public static int FirstKey(in LogitsContext at, in Arguments a) => 0;

                    [AttentionSink]
                    public static float Sink(int head, in Arguments a) => 0f;

                    [QueryTransform]
                    public static float QueryElement(float value, in ElementContext at, in Arguments a) => MathF.Min(value, -0f);

                    [OutputTransform]
                    public static float OutputElement(float value, float lse2, in ElementContext at, in Arguments a) => MathF.Min(value, -0f);

                """
        );

        one.Check(RunOnHost([one])[0]);

        Assert.Contains(0x80000000, one.Expected);
        Assert.DoesNotContain(0u, Enumerable.Range(0, Rows).Select(row => one.Expected[row * FuzzData.ResultWords]));
    }

    private static FuzzCase Make(int seed, string members) => FuzzCase.Make(seed, members, GeneratorHarness.References, Lower);

    private static string? Lower(INamedTypeSymbol type, Compilation compilation) =>
        VariantParser.Parse(type, compilation, CancellationToken.None)?.Cuda;

    /// <summary>One program for all variants: words come in through its input and answers go out through its output.</summary>
    private static uint[][] RunOnHost(FuzzCase[] cases)
    {
        StringBuilder text = new(Preamble);
        text.Append(FuzzData.Evaluate);
        foreach (FuzzCase one in cases)
        {
            text.Append(CultureInfo.InvariantCulture, $"namespace p{one.Seed} {{\n{one.Cuda}}}\n");
        }

        text.Append("template <typename Variant>\nvoid run() {\n");
        text.Append(
            CultureInfo.InvariantCulture,
            $"  std::vector<unsigned> data({FuzzData.SpanWords + (Rows * FuzzData.RowWords)}), results({Rows * FuzzData.ResultWords});\n"
        );
        text.Append("  if (fread(data.data(), 4, data.size(), stdin) != data.size()) __builtin_trap();\n");
        text.Append(
            CultureInfo.InvariantCulture,
            $"  for (int row = 0; row < {Rows}; ++row) evaluate<Variant>(data.data(), results.data(), row);\n"
        );
        text.Append("  fwrite(results.data(), 4, results.size(), stdout);\n}\n\nint main() {\n");
        foreach (FuzzCase one in cases)
        {
            text.Append(CultureInfo.InvariantCulture, $"  run<p{one.Seed}::Variant>();\n");
        }

        text.Append("}\n");
        DirectoryInfo folder = Directory.CreateTempSubdirectory("flashinfer-fuzz-");
        try
        {
            string source = Path.Combine(folder.FullName, "fuzz.cpp");
            string program = Path.Combine(folder.FullName, "fuzz");
            File.WriteAllText(source, text.ToString());
            // Without contraction and folding by other rules than those of .NET's own library.
            string options =
                $"-std=c++17 -O0 -ffp-contract=off -fno-builtin -fsanitize=undefined -fsanitize-undefined-trap-on-error -I{Path.Combine(TestPaths.RepositoryRoot, "kernels")}";
            (int code, _, string errors) = Run(Compiler()!, [.. options.Split(' '), source, "-o", program, "-lm"], []);
            Assert.True(code == 0, errors + text);
            byte[] input = MemoryMarshal.AsBytes<uint>([.. cases.SelectMany(static one => one.Data)]).ToArray();
            (code, byte[] answers, errors) = Run(program, [], input);
            int size = Rows * FuzzData.ResultWords;
            uint[] words = MemoryMarshal.Cast<byte, uint>(answers).ToArray();
            Assert.True(
                code == 0,
                $"undefined behaviour after seed {cases[0].Seed} + {words.Length / size}: {errors}{cases[Math.Min(words.Length / size, cases.Length - 1)].Cuda}"
            );
            return [.. cases.Select((_, i) => words[(i * size)..((i + 1) * size)])];
        }
        finally
        {
            folder.Delete(recursive: true);
        }
    }

    private static string? Compiler() =>
        (Environment.GetEnvironmentVariable("PATH") ?? "")
            .Split(Path.PathSeparator)
            .Select(static folder => Path.Combine(folder, "g++"))
            .FirstOrDefault(File.Exists);

    private static (int Code, byte[] Output, string Errors) Run(string program, string[] arguments, byte[] input)
    {
        ProcessStartInfo start = new(program, arguments)
        {
            RedirectStandardInput = true,
            RedirectStandardOutput = true,
            RedirectStandardError = true,
        };
        using Process process = Process.Start(start)!;
        Task<string> errors = process.StandardError.ReadToEndAsync();
        Task writing = Task.Run(() =>
        {
            using Stream stream = process.StandardInput.BaseStream;
            stream.Write(input);
        });
        using MemoryStream output = new();
        process.StandardOutput.BaseStream.CopyTo(output);
        process.WaitForExit();
        _ = writing.Exception;
        return (process.ExitCode, output.ToArray(), errors.Result);
    }
}
