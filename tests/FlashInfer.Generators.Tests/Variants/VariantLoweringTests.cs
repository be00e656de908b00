using System.Text.RegularExpressions;
using FlashInfer.Generators.Model;

namespace FlashInfer.Generators.Tests.Variants;

/// <summary>The text that C# becomes: plain where both languages mean the same, functions where they do not.</summary>
public sealed partial class VariantLoweringTests
{
    private const string Given = """
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

    [Theory]
    // Positions are below 2^30: their differences fit.
    [InlineData("at.KvPosition - at.QoPosition", "at.kv_position - at.qo_position")]
    [InlineData("-at.KvPosition", "-at.kv_position")]
    [InlineData("-a.Count", "csharp::negate(a.count)")]
    [InlineData("a.Count + 1", "csharp::add(a.count, 1)")]
    [InlineData("a.Count * 2 - 1", "csharp::subtract(csharp::multiply(a.count, 2), 1)")]
    [InlineData("(at.Head + 1) * 3", "(at.head + 1) * 3")]
    [InlineData("at.Head - (at.KvHead - 1)", "at.head - (at.kv_head - 1)")]
    [InlineData("at.KvPosition % 64", "at.kv_position % 64")]
    [InlineData("at.KvPosition / a.Count", "csharp::divide(at.kv_position, a.count)")]
    [InlineData("a.Count / -1", "csharp::divide(a.count, -1)")]
    [InlineData("at.Head / -1", "at.head / -1")]
    [InlineData("a.Count % 7 + 1", "a.count % 7 + 1")]
    [InlineData("at.Head << 3", "at.head << 3")]
    [InlineData("a.Count << 3", "csharp::shift_left(a.count, 3)")]
    [InlineData("a.Count >> 35", "a.count >> 3")]
    [InlineData("a.Count >> at.Head", "a.count >> (at.head & 31)")]
    [InlineData("a.Count >>> 1", "csharp::shift_right_unsigned(a.count, 1)")]
    [InlineData("at.Head >>> 1", "at.head >> 1")]
    [InlineData("(at.Head & 3) | (at.KvHead << 2)", "(at.head & 3) | (at.kv_head << 2)")]
    [InlineData("a.Bytes[at.Head] + 1", "int(a.bytes[at.head]) + 1")]
    [InlineData(
        "a.Bytes[(at.Head + 1) switch { 1 => 2, _ => 3 }] / 2",
        "int(a.bytes[([&](int value) -> int { return value == 1 ? 2 : 3; }(at.head + 1))]) / 2"
    )]
    [InlineData("Math.Clamp((int)a.Bytes[0], -1, 5)", "csharp::clamp(int(a.bytes[0]), -1, 5)")]
    [InlineData("a.Slopes.Length - 1", "a.slopes.length - 1")]
    [InlineData("(int)a.Scale", "csharp::to_int(a.scale)")]
    [InlineData("(int)a.Bits", "int(a.bits)")]
    [InlineData("Math.Max(at.Head, 3) + 1", "csharp::max(at.head, 3) + 1")]
    [InlineData("int.MinValue", "(-2147483647 - 1)")]
    [InlineData("GroupSize * HeadDim", "512")]
    [InlineData("a.Flag ? 1 : -1", "a.flag != 0 ? 1 : -1")]
    [InlineData("at.Head switch { 0 => 5, < 8 => 6, _ => 7 }", "at.head == 0 ? 5 : at.head < 8 ? 6 : 7")]
    [InlineData("(at.Head + 1) switch { 1 => 2, _ => 3 }", "[&](int value) -> int { return value == 1 ? 2 : 3; }(at.head + 1)")]
    [InlineData("BitOperations.PopCount(a.Bits)", "csharp::pop_count(a.bits)")]
    public void Int(string csharp, string cuda) => Lowers("int", csharp, cuda);

    [Theory]
    [InlineData("a.Bits + 1", "a.bits + 1u")]
    [InlineData("a.Bits << at.Head", "a.bits << (at.head & 31)")]
    [InlineData("a.Bits / 3", "a.bits / 3u")]
    [InlineData("3 / a.Bits", "csharp::divide(3u, a.bits)")]
    [InlineData("(uint)at.Head", "unsigned(at.head)")]
    [InlineData("(uint)a.Scale", "csharp::to_uint(a.scale)")]
    public void UInt(string csharp, string cuda) => Lowers("uint", csharp, cuda);

    [Theory]
    [InlineData("a.Scale * (at.KvPosition - at.QoPosition)", "a.scale * float(at.kv_position - at.qo_position)")]
    [InlineData("a.Scale + (a.Scale + 1)", "a.scale + (a.scale + 1.f)")]
    [InlineData("a.Scale % 2", "fmodf(a.scale, 2.f)")]
    [InlineData("a.Scale / 2", "a.scale / 2.f")]
    [InlineData("a.Scale / -0.125f", "a.scale / -0.125f")]
    [InlineData("a.Scale / 3", "csharp::divide(a.scale, 3.f)")]
    [InlineData("1 / a.Scale", "csharp::divide(1.f, a.scale)")]
    [InlineData("MathF.Sqrt(a.Scale)", "csharp::sqrt(a.scale)")]
    [InlineData("-(-a.Scale)", "-(-a.scale)")]
    [InlineData("MathF.Max(a.Scale, 0)", "csharp::max(a.scale, 0.f)")]
    [InlineData("MathF.Pow(2, a.Scale)", "exp2f(a.scale)")]
    [InlineData("MathF.Pow(a.Scale, 2)", "powf(a.scale, 2.f)")]
    [InlineData("float.Exp(a.Scale)", "expf(a.scale)")]
    [InlineData("MathF.ReciprocalEstimate(a.Scale)", "csharp::reciprocal_estimate(a.scale)")]
    [InlineData("MathF.ReciprocalSqrtEstimate(a.Scale)", "csharp::reciprocal_sqrt_estimate(a.scale)")]
    [InlineData("FastMath.Exp(a.Scale)", "csharp::fast_exp(a.scale)")]
    [InlineData("FastMath.Exp2(a.Scale)", "csharp::fast_exp2(a.scale)")]
    [InlineData("FastMath.Sigmoid(a.Scale)", "csharp::fast_sigmoid(a.scale)")]
    [InlineData("FastMath.Tanh(at.Head)", "csharp::fast_tanh(float(at.head))")]
    [InlineData("MathF.FusedMultiplyAdd(z: 1, x: a.Scale, y: 2)", "fmaf(a.scale, 2.f, 1.f)")]
    [InlineData("float.NegativeInfinity", "-csharp::infinity()")]
    [InlineData("float.NaN", "csharp::nan()")]
    [InlineData("-0f", "-0.f")]
    [InlineData("0.1f", "0.1f")]
    [InlineData("1e-45f", "1E-45f")]
    [InlineData("16777217f", "16777216.f")]
    [InlineData("MathF.PI", "3.1415927f")]
    [InlineData("(float)Math.PI * 2", "6.2831855f")]
    public void Float(string csharp, string cuda) => Lowers("float", csharp, cuda);

    [Theory]
    [InlineData("at.Head > 1 && at.Head < 3 || a.Flag", "(at.head > 1 && at.head < 3) || a.flag != 0")]
    [InlineData("!(a.Flag ^ true)", "!(a.flag != 0 != true)")]
    [InlineData("!a.Flag", "!(a.flag != 0)")]
    [InlineData("at.Head > 1 || a.Slopes[at.Head] > 0", "(at.head > 1) | (a.slopes[at.head] > 0.f)")]
    [InlineData("a.Flag && at.Head > 1 && a.Bytes[0] == 1", "(a.flag != 0 && at.head > 1) & (int(a.bytes[0]) == 1)")]
    [InlineData("at.Head is >= 2 and < 5", "at.head >= 2 && at.head < 5")]
    [InlineData("at.Head is 2 or 5", "at.head == 2 || at.head == 5")]
    [InlineData("at.Head is not 2", "!(at.head == 2)")]
    [InlineData("a.Scale is float.NaN", "csharp::is_nan(a.scale)")]
    [InlineData("a.Slopes.IsEmpty", "a.slopes.length == 0")]
    [InlineData("(a.Bits & (1u << at.Head)) != 0", "(a.bits & (1u << (at.head & 31))) != 0u")]
    public void Bool(string csharp, string cuda) => Lowers("bool", csharp, cuda);

    // A loop goes on as in C#, but where C# would wrap around and never end: there it ends.
    [Theory]
    [InlineData("int i = 0; i < a.Count; i++", "int i = 0; i < a.count; ++i")]
    [InlineData("int i = 0; i <= at.Head; i++", "int i = 0; i <= at.head; ++i")]
    [InlineData("int i = a.Count; i >= 0; i -= 2", "int i = a.count; i >= 0; i -= 2")]
    [InlineData("uint i = a.Bits; i > 0; i--", "unsigned i = a.bits; i > 0u; --i")]
    [InlineData("int i = 0; i <= a.Count; i++", "int i = 0; goes_on && i <= a.count; goes_on = csharp::step(i, 1)")]
    [InlineData("int i = 0; i < a.Count; i += 2", "int i = 0; goes_on && i < a.count; goes_on = csharp::step(i, 2)")]
    [InlineData("int i = 9; i >= a.Count; i--", "int i = 9; goes_on && i >= a.count; goes_on = csharp::step(i, -1)")]
    [InlineData("uint i = 9; i >= a.Bits; i -= 3", "unsigned i = 9u; goes_on && i >= a.bits; goes_on = csharp::step(i, -3)")]
    [InlineData(
        "int i = 0, j = 5; a.Count >= i && a.Flag; j--, i++",
        "int i = 0, j = 5; goes_on && a.count >= i && a.flag != 0; j = csharp::subtract(j, 1), goes_on = csharp::step(i, 1)"
    )]
    public void Loops(string csharp, string cuda)
    {
        string text = BodyOf("float", $"float sum = 0; for ({csharp}) {{ sum += i; }} return sum;");

        string goesOn = cuda.Contains("goes_on", StringComparison.Ordinal) ? "    bool goes_on = true;\n" : "";
        Assert.Equal($"    float sum = 0.f;\n{goesOn}    for ({cuda}) {{\n      sum += float(i);\n    }}\n    return sum;\n", text);
    }

    // It does not wrap around, so what is computed from it need not either.
    [Fact]
    public void What_a_loop_counts_is_in_order()
    {
        string text = BodyOf("float", "float sum = 0; for (int i = 1; i <= a.Count; i++) { sum += i - 1; } return sum;");

        Assert.Contains("sum += float(i - 1);", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Statements()
    {
        const string Body = """
            int sum = 0;
            for (int i = 0; i < a.Count; i++)
            {
                if (i == at.Head)
                    continue;
                else if (i > 9)
                {
                    break;
                }

                sum += i * 2;
            }

            float @float = sum;
            @float /= 3;
            byte low = 3;
            low += 255;
            low++;
            switch (sum % 4)
            {
                case 0:
                case 1:
                    @float++;
                    break;
                case > 2 when a.Flag:
                    return 1;
                default:
                    break;
            }

            return @float + low;
            """;
        Assert.Equal(
            """
                int sum = 0;
                for (int i = 0; i < a.count; ++i) {
                  if (i == at.head) {
                    continue;
                  } else if (i > 9) {
                    break;
                  }
                  sum = csharp::add(sum, csharp::multiply(i, 2));
                }
                float float_2 = float(sum);
                float_2 = csharp::divide(float_2, 3.f);
                unsigned char low = 3;
                low = csharp::to_byte(int(low) + 255);
                low = csharp::to_byte(int(low) + 1);
                const int value = sum % 4;
                switch (value == 0 ? 0 : value == 1 ? 0 : value > 2 && a.flag != 0 ? 1 : 2) {
                  case 0: {
                    ++float_2;
                    break;
                  }
                  case 1: {
                    return 1.f;
                  }
                  case 2: {
                    break;
                  }
                }
                return float_2 + float(low);

            """,
            BodyOf("float", Body)
        );
    }

    [Fact]
    public void Names_are_kept_apart()
    {
        string text = VariantHarness.Cuda(
            """
            [LogitsMask]
            private static bool Keep(in LogitsContext at)
            {
                int slope = Slope(at.Head) + Slope(1u);
                int Slope_ = 1, union = 2, kvPosition = 3, KVPosition = 4, größe = 5, __x = 6;
                return slope + Slope_ + union + kvPosition + KVPosition + größe + __x > 0;
            }

            private static int Slope(int head) => head;

            private static int Slope(uint head) => (int)head;
            """
        );
        Assert.Contains("const int slope_3 = csharp::add(slope(at.head), slope_2(1u));", text, StringComparison.Ordinal);
        Assert.Contains("const int slope_4 = 1;", text, StringComparison.Ordinal);
        Assert.Contains("const int union_2 = 2;", text, StringComparison.Ordinal);
        Assert.Contains("const int kv_position = 3;", text, StringComparison.Ordinal);
        Assert.Contains("const int kv_position_2 = 4;", text, StringComparison.Ordinal);
        Assert.Contains("const int gru00f6u00dfe = 5;", text, StringComparison.Ordinal);
        Assert.Contains("const int x = 6;", text, StringComparison.Ordinal);
        Assert.Contains("static __device__ __forceinline__ int slope(int head) {", text, StringComparison.Ordinal);
        Assert.Contains("static __device__ __forceinline__ int slope_2(unsigned head) {", text, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("=> logit;", false)]
    [InlineData("{ return logit; }", false)]
    [InlineData("=> -logit;", true)]
    public void A_transform_that_does_nothing_is_none(string body, bool isOne)
    {
        string text = VariantHarness.Cuda($"[LogitsTransform] private static float Same(float logit, in LogitsContext at) {body}");
        Assert.Contains("struct Variant : flashinfer::NoVariant {", text, StringComparison.Ordinal);
        Assert.Equal(isOne, text.Contains("kTransformsLogits", StringComparison.Ordinal));
    }

    /// <summary>With helpers of their own context, and names that the struct has taken; one that does nothing is left out.</summary>
    [Fact]
    public void Queries_and_outputs()
    {
        string text = VariantHarness.Cuda(
            """
            [QueryTransform] private static float Query(float element, in ElementContext at) => element;
            [OutputTransform] private static float Output(float element, float lse2, in ElementContext at) => TransformOutput(element, lse2) * Last(at);
            private static float TransformOutput(float element, float lse2) => element * lse2;
            private static int Last(in ElementContext at) => at.Element + 1;
            """
        );
        Assert.DoesNotContain("kTransformsQuery", text, StringComparison.Ordinal);
        Assert.Contains("static constexpr bool kTransformsOutput = true;", text, StringComparison.Ordinal);
        Assert.Contains(
            "float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments&) {",
            text,
            StringComparison.Ordinal
        );
        Assert.Contains("return transform_output_2(element, lse2) * float(last(at));", text, StringComparison.Ordinal);
        Assert.Contains("return element * lse2;", text, StringComparison.Ordinal);
        Assert.Contains("return at.element + 1;", text, StringComparison.Ordinal);
    }

    [Fact]
    public void Constants_of_the_configuration_reach_into_fields_and_nested_classes()
    {
        string text = VariantHarness
            .Model(
                VariantHarness.Compile(
                    """
                    namespace Models.@class;
                    public partial struct Outer
                    {
                        [AttentionConfig(heads: 24, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.BFloat16)]
                        private sealed partial class Inner
                        {
                            private const int Half = Heads / 2;
                            private static readonly int s_quarter = Half / 2;
                            [LogitsMask] private static bool Keep(in LogitsContext at) => at.Head < Half && at.KvHead != s_quarter + Inner.GroupSize;
                        }
                    }
                    """
                )
            )
            .Cuda;
        Assert.Contains("return at.head < 12 && at.kv_head != 6 + 3;", text, StringComparison.Ordinal);
    }

    /// <summary>What prefill takes for less than the whole.</summary>
    [Theory]
    // Of the plan only: the softmax scales by it.
    [InlineData("=> logit * a.Scale", "after: a.scale")]
    [InlineData("=> a.Scale * logit / a.Count * 3", "after: csharp::divide(3.f * a.scale, float(a.count))")]
    [InlineData("=> logit / MathF.Sqrt(HeadDim)", "after: csharp::divide(1.f, csharp::sqrt(128.f))")]
    [InlineData("{ float t = a.Scale + 1; return logit / t; }", "after: const float t = a.scale + 1.f; csharp::divide(1.f, t)")]
    // Of the query token or head: once a row.
    [InlineData("=> logit * a.Slopes[at.Head]", "before: a.slopes[at.head]")]
    [InlineData("=> a.Scale * (logit / at.QoLen)", "before: csharp::divide(1.f, float(at.qo_len)) after: a.scale")]
    [InlineData(
        "{ int unused = 1; float s = at.QoPosition; float t = s * 2; return t * logit; }",
        "before: const float s = float(at.qo_position); const float t = s * 2.f; t"
    )]
    // Around something else.
    [InlineData("=> FastMath.Tanh(logit * a.Slopes[at.Head])", "before: a.slopes[at.head] bend: csharp::fast_tanh(logit)")]
    [InlineData("=> a.Scale * MathF.Tanh(logit / 3)", "before: csharp::divide(1.f, 3.f) bend: csharp::tanh(logit) after: a.scale")]
    // A soft cap, which prefill takes for a cubic where logits are small.
    [InlineData("=> a.Scale * FastMath.Tanh(logit / a.Scale)", "cap before: csharp::divide(1.f, a.scale) after: a.scale")]
    [InlineData("=> FastMath.Tanh(logit) * 3", "cap after: 3.f")]
    [InlineData("=> FastMath.Tanh(2 * logit)", "cap before: 2.f")]
    [InlineData("=> logit * a.Scale + a.Bytes[at.KvPosition]", "before: a.scale bend: logit + float(a.bytes[at.kv_position])")]
    [InlineData("=> 2 * MathF.Max(logit, -logit)", "bend: csharp::max(logit, -logit) after: 2.f")]
    [InlineData("=> a.Flag ? logit * 2 : 0", "before: 2.f bend: a.flag != 0 ? logit : 0.f")]
    [InlineData("=> 1 / (logit * 3)", "before: 3.f bend: csharp::divide(1.f, logit)")]
    // A line over the keys' positions.
    [InlineData("=> logit + a.Slopes[at.Head] * (at.KvPosition - at.QoPosition)", "line: {a.slopes[at.head], at.qo_position}")]
    [InlineData("=> logit - (at.QoIndex - at.KvPosition) * a.Scale / 2", "line: {a.scale / 2.f, at.qo_index}")]
    [InlineData("=> -(at.KvPosition - at.QoPosition) * a.Scale + logit", "line: {-a.scale, at.qo_position}")]
    [InlineData("=> logit + (at.KvPosition - at.QoPosition)", "line: {1.f, at.qo_position}")]
    // With a factor of the plan, of which the softmax has its share, too.
    [InlineData(
        "=> logit / a.Scale + a.Slopes[at.Head] * (at.KvPosition - at.QoPosition)",
        "line: {a.slopes[at.head], at.qo_position} after: csharp::divide(1.f, a.scale)"
    )]
    [InlineData(
        "=> a.Scale * (2 * logit - a.Slopes[at.Head] * (at.KvPosition - at.QoIndex))",
        "line: {-(a.slopes[at.head] * a.scale), at.qo_index} after: a.scale * 2.f"
    )]
    [InlineData("=> (at.KvPosition - at.QoPosition) + 3 * logit", "line: {1.f, at.qo_position} after: 3.f")]
    // Neither: of the key, not of the logit, or more than declarations and a return.
    [InlineData("=> logit + a.Scale", "transform")]
    [InlineData("=> 3 / logit", "transform")]
    [InlineData("=> a.Scale", "transform")]
    [InlineData("=> logit * a.Slopes[at.KvPosition]", "transform")]
    [InlineData("=> logit * Of(at)", "transform")]
    [InlineData("{ float x = logit * a.Scale; return x; }", "transform")]
    [InlineData("{ logit *= a.Scale; return logit; }", "transform")]
    [InlineData("{ if (a.Flag) { return 0; } return logit * a.Scale; }", "transform")]
    [InlineData("=> logit + at.QoIndex * (at.KvPosition - at.QoPosition)", "transform")]
    [InlineData("=> logit + a.Scale * (at.KvPosition + at.QoPosition)", "transform")]
    [InlineData("=> a.Scale * (at.KvPosition - at.QoPosition) - logit", "transform")]
    public void Parts(string csharp, string parts)
    {
        string cuda = VariantHarness.Cuda(
            $$"""
            {{Given}}

            [LogitsTransform]
            private static float Transform(float logit, in LogitsContext at, in Arguments a) {{csharp}}{{(csharp[0] == '=' ? ";" : "")}}

            private static float Of(in LogitsContext at) => at.KvPosition;
            """
        );
        bool caps = cuda.Contains("TransformByCap<", StringComparison.Ordinal);
        string[] found =
        [
            .. caps ? ["cap"] : Array.Empty<string>(),
            .. PartFunction()
                .Matches(cuda)
                .Select(static part =>
                    part.Groups["name"].Value
                    + ": "
                    + string.Join(
                            ' ',
                            part.Groups["body"].Value.Split('\n', StringSplitOptions.TrimEntries | StringSplitOptions.RemoveEmptyEntries)
                        )
                        .Replace("return ", "", StringComparison.Ordinal)
                        .TrimEnd(';')
                ),
        ];
        Assert.Equal(parts == "transform", cuda.Contains("float transform(", StringComparison.Ordinal));
        Assert.Equal(parts == "transform" ? "" : parts, string.Join(' ', found));
        bool bends = parts.Contains("before", StringComparison.Ordinal) || parts.Contains("bend", StringComparison.Ordinal);
        Assert.Equal(bends && !caps, cuda.Contains("kBends = true", StringComparison.Ordinal));
    }

    [Fact]
    public void A_class_without_hooks_has_no_variant_and_one_with_an_error_no_text()
    {
        Assert.Empty(VariantHarness.Cuda("[LogitsMask] private static bool Keep(in LogitsContext at) => Unknown(at);"));
        Assert.Empty(VariantHarness.Cuda("[LogitsMask] private static bool Keep(in LogitsContext at);"));
        Assert.Empty(VariantHarness.Cuda("[LogitsMask] private static bool Keep(Nothing at) => true;"));
        Assert.Empty(
            VariantHarness.Cuda("[LogitsMask] private static bool Keep(in LogitsContext at) { double x = at.Head; return x > 0; }")
        );
    }

    [Fact]
    public void The_model_says_what_is_called_with_what()
    {
        VariantModel model = VariantHarness.Model(
            VariantHarness.Compile(
                VariantHarness.Config(
                    """
                    [VariantArguments]
                    public readonly ref struct Given
                    {
                        public required uint Bits { get; init; }
                        public ReadOnlySpan<byte> States { get; init; }
                        public float Half => Scale / 2;
                        internal bool IsOn { get; init; }
                        public float Scale { get; init; }
                    }

                    [AttentionSink] private static float Sink(int head) => head;
                    [LogitsMask] private static bool Keep(in LogitsContext at, in Given a) => a.IsOn;
                    """
                )
            )
        );
        Assert.Equal("global::Subject.Given", model.ArgumentsType);
        Assert.Equal(
            [
                new("Bits", "uint", false),
                new("States", "byte", true),
                new("IsOn", "bool", false),
                new("Scale", "float", false),
                new("Half", "float", false, IsComputed: true),
            ],
            model.Arguments
        );
        Assert.Equal([new(VariantHookKind.Mask, "Keep", true), new(VariantHookKind.Sink, "Sink", false)], model.Hooks);
    }

    [Fact]
    public void Equal_text_gives_equal_models_and_other_text_others()
    {
        const string Members = "[LogitsMask] private static bool Keep(in LogitsContext at) => at.Head < 3;";
        string source = VariantHarness.Config(Members);
        VariantModel model = VariantHarness.Model(VariantHarness.Compile(source));
        Assert.Equal(model, VariantHarness.Model(VariantHarness.Compile("// moved\n\n" + source)));
        Assert.NotEqual(model, VariantHarness.Model(VariantHarness.Compile(source.Replace("< 3", "< 4", StringComparison.Ordinal))));
    }

    private static void Lowers(string type, string csharp, string cuda) =>
        Assert.Equal($"    return {cuda};\n", BodyOf(type, $"return {csharp};"));

    /// <summary>The body of a helper, between its braces.</summary>
    private static string BodyOf(string type, string body)
    {
        string source = VariantHarness.Config(
            $$"""
            {{Given}}

            [LogitsMask]
            private static bool Keep(in LogitsContext at, in Arguments a) => {{(
                type == "bool" ? "Compute(at, a)" : "Compute(at, a) == 0"
            )}};

            private static {{type}} Compute(in LogitsContext at, in Arguments a)
            {
            {{body}}
            }
            """
        );
        string cuda = VariantHarness.Model(VariantHarness.Compile(source)).Cuda;
        Assert.True(cuda.Length > 0, $"'{body}' cannot be lowered");
        int start = cuda.IndexOf('\n', cuda.IndexOf(" compute(const", StringComparison.Ordinal)) + 1;
        return cuda[start..cuda.IndexOf("\n  }\n", start, StringComparison.Ordinal)] + "\n";
    }

    [GeneratedRegex(@"(float|Line) (?<name>before|bend|after|line)\(.*\) \{\n(?<body>[\s\S]*?)\n  \}")]
    private static partial Regex PartFunction();
}
