using System.Globalization;
using FlashInfer.Generators.Emit;
using FlashInfer.Generators.Model;
using FlashInfer.Generators.Tests.Harness;

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
        string text = Emit(Model(new AttentionShape(32, 8, 128, 16, DType.BFloat16, DType.BFloat16, KvLayout.Nhd)));
        Assert.DoesNotContain('\r', text);
        Assert.DoesNotContain('\t', text);
        Assert.EndsWith("}\n", text, StringComparison.Ordinal);
        Assert.All(text.Split('\n'), static line => Assert.Equal(line.TrimEnd(), line));
    }

    [Fact]
    public void The_list_of_taken_names_is_what_is_generated()
    {
        GeneratorRun run = GeneratorHarness.Run(
            "[FlashInfer.AttentionConfig(32, 8, 128, 16, FlashInfer.DType.BFloat16)] public partial class LlamaAttention;"
        );
        IEnumerable<string> members = run
            .Compilation.GetTypeByMetadataName("LlamaAttention")!
            .GetMembers()
            .Where(static member => !member.IsImplicitlyDeclared && member.CanBeReferencedByName)
            .Select(static member => member.Name);
        Assert.Equal(ConfigEmitter.MemberNames.Order(StringComparer.Ordinal), members.Order(StringComparer.Ordinal));
    }

    [Fact]
    public void Emission_stops_when_cancelled()
    {
        using CancellationTokenSource source = new();
        source.Cancel();
        AttentionModel model = Model(new AttentionShape(32, 8, 128, 16, DType.BFloat16, DType.BFloat16, KvLayout.Nhd));
        Assert.Throws<OperationCanceledException>(() => ConfigEmitter.Emit(model, source.Token));
    }

    private static string Emit(AttentionModel model) => ConfigEmitter.Emit(model, CancellationToken.None);

    private static AttentionModel Model(AttentionShape shape) => new("Models", default, s_type, IsStatic: false, shape);
}
