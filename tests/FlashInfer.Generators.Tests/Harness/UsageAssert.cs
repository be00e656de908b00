using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests.Harness;

/// <summary>Compares what is reported of a program with the marks <c>[|...|]</c> in its text.</summary>
internal static class UsageAssert
{
    private const string Usings = """
        using System;
        using System.Collections.Generic;
        using System.Linq;
        using System.Threading.Tasks;
        using FlashInfer;
        using FlashInfer.Cuda;

        """;

    private const string Config = """
        using FlashInfer;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class Llama;
        """;

    /// <summary>Fails unless the marked expressions, and no others, are reported, all with this id.</summary>
    /// <param name="id">The id.</param>
    /// <param name="members">Members of a class that has <c>device</c>, <c>cache</c>, <c>decode</c> and <c>context</c>.</param>
    public static void Reports(string id, string members)
    {
        (string source, IReadOnlyList<string> marked) = MarkedSource.Unmark(Program(members));
        string[] expected = [.. marked.Select(text => $"{id} {text}")];
        string[] actual = [.. Diagnostics(source).Select(static d => $"{d.Id} {MarkedSource.Where(d)}")];
        Assert.True(expected.SequenceEqual(actual), $"expected\n{string.Join('\n', expected)}\nbut got\n{string.Join('\n', actual)}");
    }

    /// <summary>The message of the only diagnostic.</summary>
    public static string Message(string members) => Assert.Single(Diagnostics(Program(members))).GetMessage();

    private static string Program(string members) =>
        $$"""
            {{Usings}}
            public class Subject(Device device, Llama.PagedKvCache cache, Llama.BatchDecodeWithPagedKvCache decode, CudaContext context)
            {
            {{members}}
            }
            """;

    // CS9113, CS9124: a parameter of the class that an example does not use, or uses twice.
    private static IEnumerable<Diagnostic> Diagnostics(string source) =>
        GeneratorHarness.RunProgram(source, Config).Diagnostics().Where(static d => d.Id is not ("CS9113" or "CS9124"));
}
