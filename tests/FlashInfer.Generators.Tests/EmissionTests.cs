using System.Globalization;
using System.Xml.Linq;
using FlashInfer.Generators.Emit;
using FlashInfer.Generators.Model;
using FlashInfer.Generators.Tests.Harness;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests;

/// <summary>The same model gives the same bytes everywhere, and every bound name is in the list of taken names.</summary>
public sealed class EmissionTests
{
    private static readonly TypeDeclaration s_type = new("class", "LlamaAttention", "");

    [Fact]
    public void The_culture_does_not_show()
    {
        AttentionModel legal = Model(new AttentionShape(1024, 1024, 128, 1024, DType.BFloat16, DType.BFloat16, KvLayout.Nhd));
        AttentionModel illegal = Model(new AttentionShape(-1, int.MinValue, -128, -16, (DType)(-1), (DType)(-2), (KvLayout)(-3)));
        string[] expected = [.. new[] { legal, illegal }.Select(Emit)];

        CultureInfo before = CultureInfo.CurrentCulture;
        CultureInfo odd = (CultureInfo)CultureInfo.InvariantCulture.Clone();
        odd.NumberFormat.NegativeSign = "minus ";
        odd.NumberFormat.NumberGroupSeparator = "'";
        try
        {
            CultureInfo.CurrentCulture = odd;
            Assert.Equal(expected, new[] { legal, illegal }.Select(Emit));
        }
        finally
        {
            CultureInfo.CurrentCulture = before;
        }
    }

    [Fact]
    public void Lines_end_with_a_line_feed_and_carry_no_trailing_space()
    {
        AttentionModel model = Model(new AttentionShape(32, 8, 128, 16, DType.BFloat16, DType.BFloat16, KvLayout.Nhd));
        foreach ((string name, string text) in ConfigEmitter.Emit(model, CancellationToken.None))
        {
            Assert.True(text.EndsWith("}\n", StringComparison.Ordinal), name);
            Assert.DoesNotContain('\r', text);
            Assert.DoesNotContain('\t', text);
            Assert.All(text.Split('\n'), static line => Assert.Equal(line.TrimEnd(), line));
        }
    }

    [Fact]
    public void The_list_of_taken_names_is_what_is_generated()
    {
        GeneratorRun run = GeneratorHarness.Run(
            """
            using FlashInfer;

            [AttentionConfig(32, 8, 128, 16, DType.BFloat16)]
            public partial class LlamaAttention
            {
                [FirstKey]
                private static int Own(in LogitsContext at) => 0;
            }
            """
        );
        IEnumerable<string> members = run
            .Compilation.GetTypeByMetadataName("LlamaAttention")!
            .GetMembers()
            .Where(static member => !member.IsImplicitlyDeclared && member.CanBeReferencedByName && member.Name != "Own")
            .Select(static member => member.Name);
        // A variant that may ask where tokens stand has no cascade, whose name is taken all the same.
        IEnumerable<string> taken = ConfigEmitter.MemberNames.Where(static name => name != "MultiLevelCascadeAttention");
        Assert.Equal(taken.Order(StringComparer.Ordinal), members.Order(StringComparer.Ordinal));
    }

    /// <summary>What an editor shows on hover: every public member says what it is, and shapes stand there as numbers.</summary>
    [Fact]
    public void Public_members_are_documented_with_the_numbers_of_the_configuration()
    {
        // Numbers that stand for nothing else in the documentation.
        GeneratorRun run = GeneratorHarness.Run(
            "[FlashInfer.AttentionConfig(42, 14, 192, 48, FlashInfer.DType.Float16, KvDtype = FlashInfer.DType.Float8E5M2)] public partial class A;"
        );
        INamedTypeSymbol config = run.Compilation.GetTypeByMetadataName("A")!;
        foreach (
            ISymbol member in config.GetMembers().SelectMany(static m => m is INamedTypeSymbol type ? type.GetMembers().Append(m) : [m])
        )
        {
            if (
                member.DeclaredAccessibility != Accessibility.Public
                || member.IsImplicitlyDeclared
                || member is IMethodSymbol { AssociatedSymbol: not null }
            )
            {
                continue;
            }

            XElement documentation = XElement.Parse(member.GetDocumentationCommentXml()!);
            Assert.False(string.IsNullOrWhiteSpace(documentation.Element("summary")?.Value), $"{member} has no summary");
            foreach (IParameterSymbol parameter in (member as IMethodSymbol)?.Parameters ?? [])
            {
                XElement text = documentation.Elements("param").Single(p => p.Attribute("name")!.Value == parameter.Name);
                string? shape = parameter.Type.Name switch
                {
                    "Query" or "Output" => ", 42, 192]",
                    "Key" => ", 14, 192]",
                    "Lse2" => ", 42]",
                    _ => null,
                };
                Assert.True(
                    shape is null || text.Value.Contains(shape, StringComparison.Ordinal),
                    $"{member}: {parameter.Name} lacks {shape}"
                );
            }
        }

        foreach (
            (string name, string text) in new[]
            {
                ("Heads", "42"),
                ("KvHeads", "14"),
                ("GroupSize", "3"),
                ("HeadDim", "192"),
                ("PageSize", "48"),
                ("Dtype", "Float16"),
                ("KvDtype", "Float8E5M2"),
                ("KvLayout", "Nhd"),
                ("Spec", "42 heads, 14 kvHeads (group 3), headDim 192, pageSize 48, Float16, KV Float8E5M2 Nhd"),
                ("Query", "Float16 [tokens, 42, 192]"),
                ("Key", "Float16 [tokens, 14, 192]"),
                ("Value", "Float16 [tokens, 14, 192]"),
                ("Output", "Float16 [tokens, 42, 192]"),
                ("Lse2", "Float32 [tokens, 42]"),
                ("AllocateQuery", "[tokens, 42, 192]"),
                ("AllocateLse2", "[tokens, 42]"),
                ("PagedKvCache", "14 kvHeads, headDim 192, 48 tokens a page, Float8E5M2 Nhd"),
                ("BatchDecodeWithPagedKvCache", "42 heads on 14 kvHeads"),
            }
        )
        {
            Assert.Contains(text, config.GetMembers(name).Single().GetDocumentationCommentXml(), StringComparison.Ordinal);
        }
    }

    [Fact]
    public void Emission_stops_when_cancelled()
    {
        using CancellationTokenSource source = new();
        source.Cancel();
        AttentionModel model = Model(new AttentionShape(32, 8, 128, 16, DType.BFloat16, DType.BFloat16, KvLayout.Nhd));
        Assert.Throws<OperationCanceledException>(() => ConfigEmitter.Emit(model, source.Token));
    }

    private static string Emit(AttentionModel model) =>
        string.Concat(ConfigEmitter.Emit(model, CancellationToken.None).Select(static file => file.Text));

    private static AttentionModel Model(AttentionShape shape) => new("Models", default, s_type, IsStatic: false, shape, Variant: null);
}
