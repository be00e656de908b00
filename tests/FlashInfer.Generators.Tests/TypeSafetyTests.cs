using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>What does not belong together does not compile, with one error that says so; what does compiles without a warning.</summary>
public sealed class TypeSafetyTests
{
    private const string Configs = """
        using System;
        using FlashInfer;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class Llama;

        [AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
        public partial class Twin;

        [AttentionConfig(heads: 12, kvHeads: 12, headDim: 64, pageSize: 16, dtype: DType.Float16)]
        public partial class Gpt;

        """;

    private const string Parameters =
        "Device device, Sequence s, Llama.PagedKvCache cache, Llama.BatchDecodeWithPagedKvCache decode, "
        + "Llama.Query q, Llama.Key k, Llama.Value v, Llama.Output o, Llama.Lse2 l, Twin.Query twinQ, Gpt.PagedKvCache gptCache, "
        + "TensorView<BFloat16> bf16, TensorView<Half> f16, TensorView<float> f32, FlashInfer.Cuda.CudaStream stream";

    [Theory]
    [InlineData("decode.Run(0, q, o);")]
    [InlineData("decode.Run(0, q, o, stream);")]
    [InlineData("decode.Run(0, q, o, l);")]
    [InlineData("decode.Run(0, q, o, l, stream: stream);")]
    [InlineData("using Llama.Output made = decode.Run(0, q);")]
    [InlineData("Llama.Output made = decode.Run(0, q, stream); made.Dispose();")]
    [InlineData("decode.Append(0, k, v);")]
    [InlineData("decode.Plan([s]);")]
    [InlineData("cache.Append(0, s, k, v);")]
    [InlineData("cache.Append(0, [s], k, v, stream);")]
    [InlineData("cache.Append(0, new Sequence[] { s }, k, v);")]
    [InlineData("using var made = new Llama.BatchDecodeWithPagedKvCache(cache);")]
    [InlineData("using var made = new Llama.PagedKvCache(device, layers: 1, pages: 128);")]
    [InlineData("using Llama.Query made = Llama.AllocateQuery(device, 3); made.CopyFrom(new BFloat16[3 * Llama.Heads * Llama.HeadDim]);")]
    [InlineData("_ = new Llama.Key(bf16); _ = new Llama.Lse2(f32); _ = new Gpt.Query(f16);")]
    [InlineData("TensorView untyped = q.View; _ = untyped.Shape == q.Shape; _ = q.Tokens;")]
    [InlineData("Span<float> host = new float[l.Tokens * Llama.Heads]; l.CopyTo(host);")]
    [InlineData("BFloat16[] host = o.ToArray(); host = k.ToArray(stream); float[] lse = l.ToArray(); lse = l.ToNaturalLog(stream);")]
    [InlineData("using var made = device.Allocate<BFloat16>(1, 32, 128); decode.Run(0, new Llama.Query(made), new Llama.Output(made));")]
    [InlineData(
        "using var made = device.Allocate<BFloat16>(1, 8, 128); FlashInfer.PagedKvCache core = cache; core.Append(0, [s], made, made);"
    )]
    [InlineData("using DeviceTensor made = device.Allocate(Llama.Dtype, 1, 32, 128); decode.Run(0, made, made);")]
    [InlineData("FlashInfer.PagedKvCache core = cache; core.Append(0, [s], k.View, v.View);")]
    [InlineData(
        "const int Group = Llama.GroupSize; const DType Dtype = Llama.Dtype; const KvLayout Layout = Llama.KvLayout; _ = Group + (int)Dtype + (int)Layout;"
    )]
    public void Compiles_without_a_warning(string statement) => DiagnosticAssert.Reports(Program(statement));

    [Theory]
    // A role in the place of another.
    [InlineData("decode.Run(0, [|k|], o);")]
    [InlineData("decode.Run(0, q, [|l|]);")]
    [InlineData("decode.Run(0, q, [|q|], l);")]
    [InlineData("decode.Run(0, q, o, [|o|]);")]
    [InlineData("decode.Append(0, [|v|], v);")]
    [InlineData("decode.Append(0, k, [|k|]);")]
    [InlineData("cache.Append(0, s, [|q|], v);")]
    // The same role of another configuration, even one of the same values.
    [InlineData("decode.Run(0, [|twinQ|], o);")]
    [InlineData("using var made = new Llama.BatchDecodeWithPagedKvCache([|gptCache|]);")]
    [InlineData("FlashInfer.PagedKvCache core = cache; using var made = new Llama.BatchDecodeWithPagedKvCache([|core|]);")]
    // Another element type.
    [InlineData("_ = new Llama.Query([|f16|]);")]
    [InlineData("_ = new Llama.Lse2([|bf16|]);")]
    [InlineData("q.CopyFrom([|new float[4096]|]);")]
    [InlineData("using var made = device.Allocate<Half>(4096); made.CopyFrom([|new float[4096]|]);")]
    // Typed and untyped mixed: the core's overload would take two views, and the error is about the typed one.
    [InlineData("using DeviceTensor made = device.Allocate(Llama.Dtype, 1, 32, 128); decode.Run(0, [|made|], o);")]
    public void Is_one_CS1503(string statement)
    {
        string source = Program(statement);
        int start = source.IndexOf("[|", StringComparison.Ordinal);
        int end = source.IndexOf("|]", StringComparison.Ordinal);
        string[] linesBefore = source[..start].Split('\n');
        DiagnosticAssert.Reports(
            source.Replace("[|", "", StringComparison.Ordinal).Replace("|]", "", StringComparison.Ordinal),
            new ExpectedDiagnostic("CS1503", linesBefore.Length, linesBefore[^1].Length + 1, source[(start + 2)..end], null)
        );
    }

    /// <summary>
    /// Of several overloads the compiler compares with the first. For a batch that is the single sequence's, so there are two errors;
    /// one of them is the mistake.
    /// </summary>
    [Fact]
    public void A_wrong_role_in_a_batch_append_is_named() =>
        Assert.Contains(
            "Argument 3: cannot convert from 'Llama.Query' to 'Llama.Key'",
            GeneratorHarness.Run(Program("cache.Append(0, [s], q, v);")).Diagnostics().Select(static d => d.GetMessage())
        );

    [Theory]
    [InlineData("o = q;", "CS0029")]
    [InlineData("_ = o.ToNaturalLog();", "CS1061")]
    [InlineData("Llama.Query made = bf16;", "CS0029")]
    [InlineData("TensorView untyped = q;", "CS0029")]
    [InlineData("_ = new Llama.Spec();", "CS0426")]
    [InlineData("_ = Llama.DecodeUnit.Length;", "CS0122")]
    public void Is_one_error(string statement, string id) =>
        Assert.Equal([id], GeneratorHarness.Run(Program(statement)).Diagnostics().Select(static d => d.Id));

    /// <summary>Code that uses every member of an illegal configuration: the only error is the rule's.</summary>
    [Theory]
    [InlineData("heads: 0, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16", "FI0003")]
    [InlineData("heads: 32, kvHeads: 0, headDim: 128, pageSize: 16, dtype: DType.BFloat16", "FI0004")]
    [InlineData("heads: 30, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16", "FI0005")]
    [InlineData("heads: 32, kvHeads: 8, headDim: 72, pageSize: 16, dtype: DType.BFloat16", "FI0006")]
    [InlineData("heads: 32, kvHeads: 8, headDim: 128, pageSize: 0, dtype: DType.BFloat16", "FI0007")]
    [InlineData("heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: (DType)9", "FI0008")]
    [InlineData("heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, KvLayout = (KvLayout)9", "FI0009")]
    public void An_illegal_configuration_is_one_error(string arguments, string id) =>
        Assert.Equal([id], IdsOfUse($"[AttentionConfig({arguments})] public partial class Broken"));

    /// <summary>The same of a class that is no configuration: it gets all that a class of its kind can have.</summary>
    [Theory]
    [InlineData("static partial class Broken", "Broken")]
    [InlineData("abstract partial class Broken<T>", "Broken<int>")]
    public void A_class_that_cannot_be_a_configuration_is_one_error(string declaration, string type) =>
        Assert.Equal(["FI0002"], IdsOfUse($"[AttentionConfig(32, 8, 128, 16, DType.BFloat16)] {declaration}", type));

    private static IEnumerable<string> IdsOfUse(string declaration, string type = "Broken") =>
        GeneratorHarness
            .Run(
                $$"""
                using FlashInfer;

                {{declaration}} { }

                public static class Program
                {
                    public static void Use(Device device, Sequence s)
                    {
                        using var cache = new {{type}}.PagedKvCache(device, 1, 8);
                        using var decode = new {{type}}.BatchDecodeWithPagedKvCache(cache);
                        using var q = {{type}}.AllocateQuery(device, 1);
                        using var k = {{type}}.AllocateKey(device, 1);
                        using var v = {{type}}.AllocateValue(device, 1);
                        using var o = {{type}}.AllocateOutput(device, 1);
                        using var l = {{type}}.AllocateLse2(device, 1);
                        q.CopyFrom(new BFloat16[{{type}}.Heads * {{type}}.HeadDim]);
                        cache.Append(0, s, k, v);
                        decode.Plan([s]);
                        decode.Append(0, k, v);
                        decode.Run(0, q, o, l);
                        using {{type}}.Output made = decode.Run(0, q);
                        _ = {{type}}.Spec.ToString() + {{type}}.GroupSize + {{type}}.KvHeads + {{type}}.PageSize;
                        _ = ({{type}}.Dtype, {{type}}.KvDtype, {{type}}.KvLayout, {{type}}.WarmupAsync(device));
                    }
                }
                """
            )
            .Diagnostics()
            .Select(static d => d.Id);

    private static string Program(string statement) =>
        $"{Configs}\npublic static class Program\n{{\n    public static void Main({Parameters})\n    {{\n        {statement}\n    }}\n}}\n";
}
