using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>Compares what is reported of a variant with the marks <c>[|...|]</c> in its text.</summary>
internal static class VariantAssert
{
    private const string Arguments = """
        [VariantArguments]
        public readonly ref struct Arguments
        {
            public int Count { get; init; }
            public uint Bits { get; init; }
            public float Scale { get; init; }
            public bool Flag { get; init; }
            public ReadOnlySpan<float> Slopes { get; init; }
            public ReadOnlySpan<byte> Bytes { get; init; }
        }

        """;

    /// <summary>Fails unless the marked text of a transform's body, and nothing else, is reported with this id and message.</summary>
    /// <param name="id">The id.</param>
    /// <param name="message">The message.</param>
    /// <param name="body">Statements that return a float; they have logit, at and a.</param>
    /// <param name="members">Further members of the class.</param>
    public static void Body(string id, string message, string body, string members = "") =>
        Members(
            id,
            message,
            $$"""
            {{members}}
            [LogitsTransform]
            private static float Transform(float logit, in LogitsContext at, in Arguments a)
            {
            {{body}}
            }
            """
        );

    /// <summary>As <see cref="Body"/>, for members of a class that has arguments.</summary>
    public static void Members(string id, string message, string members) => Class(id, message, Arguments + members);

    /// <summary>As <see cref="Body"/>, for all members of a class.</summary>
    public static void Class(string id, string message, string members) => Source(id, message, VariantHarness.Config(members));

    /// <summary>As <see cref="Body"/>, for a program.</summary>
    public static void Source(string id, string message, string program)
    {
        (string source, IReadOnlyList<string> marked) = MarkedSource.Unmark(program);
        string[] expected = [.. marked.Select(text => $"{id} {text}: {message}")];
        string[] actual = [.. Diagnostics(source).Select(static d => $"{d.Id} {MarkedSource.Where(d)}: {d.GetMessage()}")];
        Assert.True(expected.SequenceEqual(actual), $"expected\n{string.Join('\n', expected)}\nbut got\n{string.Join('\n', actual)}");
    }

    /// <summary>Fails unless nothing is reported of a transform's body. Parameters as <see cref="Body"/>.</summary>
    public static void IsLegal(string body, string members = "") => Body("", "", body, members);

    // CS0162, CS0219, CS8321: an example may leave code unused; a warning of the compiler's is not the point.
    private static IEnumerable<Diagnostic> Diagnostics(string source) =>
        GeneratorHarness
            .RunProgram(source, VariantHarness.Usings)
            .Diagnostics()
            .Where(static d => d.Id is not ("CS0162" or "CS0219" or "CS8321" or "CS0649" or "CS0168" or "CS1998" or "CS8509" or "CS0164"));
}
