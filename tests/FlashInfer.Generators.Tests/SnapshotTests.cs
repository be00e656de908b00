using System.Text;
using System.Text.RegularExpressions;
using FlashInfer.Generators.Emit;
using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>The emitted text, as people will step into it. Numbers that change with every release are replaced.</summary>
public sealed partial class SnapshotTests
{
    // What a person reads in one go.
    private const int MaxLines = 300;

    /// <summary>Every file.</summary>
    [Fact]
    public void Readme() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
            public partial class LlamaAttention;
            """,
            members: null
        );

    [Fact]
    public void MultiHeadHalfHnd() =>
        Verify(
            """
            using FlashInfer;

            namespace Models;

            [AttentionConfig(12, 12, 64, 1, DType.Float16, KvLayout = KvLayout.Hnd)]
            internal sealed partial class Gpt2Attention;
            """,
            new AttentionShape(12, 12, 64, 1, DType.Float16, DType.Float16, KvLayout.Hnd),
            ["Query"]
        );

    [Fact]
    public void MultiQuery() =>
        Verify(
            """
            namespace Models.Google
            {
                [FlashInfer.AttentionConfig(8, 1, 256, 64, FlashInfer.DType.BFloat16)]
                public partial record GemmaAttention;
            }
            """,
            new AttentionShape(8, 1, 256, 64, DType.BFloat16, DType.BFloat16, KvLayout.Nhd),
            []
        );

    [Fact]
    public void OddGroupNested() =>
        Verify(
            """
            using FlashInfer;

            namespace Models.@class;

            public static partial class Zoo
            {
                public partial struct Cage
                {
                    [AttentionConfig(heads: 21, kvHeads: 3, headDim: 128, pageSize: 32, dtype: DType.Float16, KvDtype = DType.Float16)]
                    private partial class OddAttention;
                }
            }
            """,
            new AttentionShape(21, 3, 128, 32, DType.Float16, DType.Float16, KvLayout.Nhd),
            ["PagedKvCache"]
        );

    [Fact]
    public void Quantised() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: 24, kvHeads: 8, headDim: 192, pageSize: 16, dtype: DType.BFloat16, KvDtype = DType.Float8E4M3)]
            public partial class QuantisedAttention;
            """,
            new AttentionShape(24, 8, 192, 16, DType.BFloat16, DType.Float8E4M3, KvLayout.Nhd),
            ["Key", "PagedKvCache"]
        );

    [Fact]
    public void QuantisedHalf() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(12, 2, 96, 32, DType.Float16, KvDtype = DType.Float8E5M2, KvLayout = KvLayout.Hnd)]
            internal sealed partial class SmallAttention;
            """,
            new AttentionShape(12, 2, 96, 32, DType.Float16, DType.Float8E5M2, KvLayout.Hnd),
            []
        );

    /// <summary>No cache, so nothing that needs one.</summary>
    [Fact]
    public void ValuesOfAnotherSize()
    {
        const string Source = """
            using FlashInfer;

            [AttentionConfig(heads: 128, kvHeads: 128, headDim: 192, pageSize: 16, dtype: DType.BFloat16, ValueDim = 128)]
            public partial class LatentAttention;
            """;
        Verify(Source, ["Value", "BatchPrefillWithRaggedKvCache", "SinglePrefill", "SingleDecode", "PrefillRaggedUnit"]);
        Assert.DoesNotContain(
            GeneratorHarness.Run(Source).Files,
            static file => file.HintName.Contains("Cache.PagedKv", StringComparison.Ordinal)
        );
        Assert.DoesNotContain(
            GeneratorHarness.Run(Source).Files,
            static file => file.HintName.Contains("DecodeUnit", StringComparison.Ordinal)
        );
    }

    /// <summary>No prefill, so nothing that is made of it.</summary>
    [Fact]
    public void DecodeOnly()
    {
        const string Source = """
            using FlashInfer;

            [AttentionConfig(heads: 16, kvHeads: 1, headDim: 512, pageSize: 16, dtype: DType.BFloat16)]
            public partial class GlobalAttention;
            """;
        Verify(Source, ["BatchDecodeWithPagedKvCache", "DecodeUnit"]);
        string[] parts = ["Prefill", "Cascade", "Single"];
        Assert.DoesNotContain(
            GeneratorHarness.Run(Source).Files,
            file => parts.Any(part => file.HintName.Contains(part, StringComparison.Ordinal))
        );
    }

    [Fact]
    public void Variant() =>
        Verify(
            """
            using FlashInfer;
            using System;

            namespace Models;

            [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
            public partial class SlopedAttention
            {
                [VariantArguments]
                public readonly ref struct Arguments
                {
                    public required ReadOnlySpan<float> Slopes { get; init; }
                    public int Window { get; init; }
                    public bool Sharp { get; init; }
                    public int Half => Window / 2;
                }

                [LogitsTransform]
                private static float Transform(float logit, in LogitsContext at, in Arguments a) =>
                    (a.Sharp ? 2 * logit : logit) + a.Slopes[at.Head] * (at.KvPosition - at.QoPosition);

                [LogitsMask]
                private static bool Keep(in LogitsContext at) => at.KvPosition % 64 < 32 || at.QoPosition - at.KvPosition < 128;

                [FirstKey]
                private static int First(LogitsContext at, Arguments a) => at.QoPosition - a.Half;

                [AttentionSink]
                private static float Sink(int head, in Arguments a) => a.Slopes[head];

                [QueryTransform]
                private static float Scale(float element, in ElementContext at) => element * (at.Element < HeadDim / 2 ? 1.5f : 0.5f);

                [OutputTransform]
                private static float Gate(float element, float lse2, in ElementContext at, in Arguments a) => element * a.Slopes[at.Head] / (1 + MathF.Exp(-lse2));
            }
            """,
            [
                "BatchDecodeWithPagedKvCache",
                "BatchPrefillWithPagedKvCache",
                "BatchPrefillWithRaggedKvCache",
                "SinglePrefill",
                "SingleDecode",
                "Variant",
                "DecodeUnit",
            ]
        );

    [Fact]
    public void Options() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: 8, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.Float16,
                Options = AttentionOptions.SlidingWindow | AttentionOptions.Sinks)]
            public partial class WindowAttention;
            """,
            ["BatchDecodeWithPagedKvCache", "DecodeUnit"]
        );

    /// <summary>Without arguments every Plan is the base class's.</summary>
    [Fact]
    public void VariantWithoutArguments() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: 8, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.Float16)]
            public partial class WindowAttention
            {
                [FirstKey]
                private static int First(in LogitsContext at) => at.QoPosition - 1000;
            }
            """,
            ["BatchDecodeWithPagedKvCache", "Variant"]
        );

    /// <summary>What cannot be lowered leaves the members and no units, so that its diagnostic is the only error.</summary>
    [Fact]
    public void VariantWithAnError() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: 8, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.Float16)]
            public partial class LoopingAttention
            {
                [LogitsMask]
                private static bool Keep(in LogitsContext at)
                {
                    while (true)
                    {
                    }
                }
            }
            """,
            ["Variant", "DecodeUnit"]
        );

    [Fact]
    public void Illegal() =>
        Verify(
            """
            using FlashInfer;

            [AttentionConfig(heads: -2147483648, kvHeads: -1, headDim: 72, pageSize: 0, dtype: (DType)7, KvLayout = (KvLayout)(-1))]
            public partial class BrokenAttention;
            """,
            ["Query", "PagedKvCache", "DecodeUnit"]
        );

    [Fact]
    public void Assembly()
    {
        GeneratorRun run = GeneratorHarness.Run(
            """
            using FlashInfer;

            [AttentionConfig(8, 8, 64, 16, DType.Float16)]
            public partial class Small;

            [AttentionConfig(8, 8, 65, 16, DType.Float16)]
            public partial class Illegal;

            [AttentionConfig(8, 8, 64, 16, DType.Float16)]
            public static partial class Static;

            namespace Models.@class
            {
                public partial struct Zoo
                {
                    [AttentionConfig(8, 8, 64, 16, DType.Float16)]
                    private partial class @event;

                    public partial class Cage<T>
                    {
                        [AttentionConfig(8, 8, 64, 16, DType.Float16)]
                        public partial class Generic;
                    }
                }
            }
            """
        );
        string text = Assert.Single(run.Files, static f => f.HintName == AssemblyEmitter.HintName).Text;
        SnapshotAssert.Matches(text, nameof(SnapshotTests), "assembly-configs", "cs");
    }

    [Fact]
    public void Ragged_units_know_nothing_of_a_cache()
    {
        AttentionShape shape = new(21, 3, 64, 5, DType.Float16, DType.Float8E4M3, KvLayout.Hnd);
        AttentionShape other = new(21, 3, 64, 64, DType.Float16, DType.Float16, KvLayout.Nhd);
        Assert.Equal(CudaUnits.PrefillRaggedName(shape), CudaUnits.PrefillRaggedName(other));
        Assert.Equal(CudaUnits.PrefillRagged(shape), CudaUnits.PrefillRagged(other));
    }

    /// <summary>Compares the files of the only configuration in a source.</summary>
    /// <param name="source">The source.</param>
    /// <param name="members">The members whose files are compared, those that show what is tested; the class's own file always is. Null for all.</param>
    /// <param name="method">The test.</param>
    private static void Verify(string source, string[]? members, [System.Runtime.CompilerServices.CallerMemberName] string method = "")
    {
        GeneratedFile[] files = [.. GeneratorHarness.Run(source).Files.Where(static file => file.HintName != AssemblyEmitter.HintName)];
        string main = files.MinBy(static file => file.HintName.Length)!.HintName;
        string[] wanted = members is null
            ? [.. files.Select(static file => file.HintName)]
            : [main, .. members.Select(member => main.Replace(".g.cs", $".{member}.g.cs", StringComparison.Ordinal))];
        Assert.Empty(wanted.Except(files.Select(static file => file.HintName)));
        foreach (GeneratedFile file in files.Where(file => wanted.Contains(file.HintName)))
        {
            string text = Version().Replace(file.Text, "VERSION");
            SnapshotAssert.Matches(text, nameof(SnapshotTests), file.HintName[..^".cs".Length], "cs", method);
            Assert.InRange(text.Count(static c => c == '\n'), 1, MaxLines);
        }

        Assert.All(files, static file => Assert.DoesNotContain('\r', file.Text));
    }

    /// <summary>As the other one, for a legal shape: its units too, as the compiler reads them.</summary>
    private static void Verify(
        string source,
        AttentionShape shape,
        string[] members,
        [System.Runtime.CompilerServices.CallerMemberName] string method = ""
    )
    {
        Verify(source, members, method);
        // What the compiler makes of the literals, not what they look like.
        byte[][] embedded = [.. Utf8Literals.Of(GeneratorHarness.Run(source).Compilation)];
        foreach ((string name, string unit) in Units(shape))
        {
            SnapshotAssert.Matches(unit, nameof(SnapshotTests), name, "cu", method);
            Assert.Contains(Encoding.UTF8.GetBytes(unit), embedded);
        }
    }

    private static (string Name, string Unit)[] Units(AttentionShape shape) =>
        [
            (CudaUnits.DecodeName(shape), CudaUnits.Decode(shape)),
            (CudaUnits.AppendName(shape), CudaUnits.Append(shape)),
            (CudaUnits.PrefillPagedName(shape), CudaUnits.PrefillPaged(shape)),
            (CudaUnits.PrefillRaggedName(shape), CudaUnits.PrefillRagged(shape)),
        ];

    [GeneratedRegex(@"(?<=GeneratedCode\(""FlashInfer\.Generators"", "")[0-9.]+")]
    private static partial Regex Version();
}
