namespace FlashInfer.Generators.Tests.Variants;

/// <summary>What cannot become part of a kernel: each with its exact place and message, and what looks alike and is right.</summary>
public sealed class VariantDiagnosticTests
{
    [Theory]
    [InlineData("float [|M|](float logit)", "it is not static", "static float M(float logit, in LogitsContext at)")]
    [InlineData("static double [|M|](float logit, in LogitsContext at)", "it has another signature", null)]
    [InlineData("static float [|M|]()", "it has another signature", null)]
    [InlineData("static float [|M|](in LogitsContext at, float logit)", "it has another signature", null)]
    [InlineData("static float [|M|](float logit, in LogitsContext at, int more)", "it has another signature", null)]
    [InlineData("static float [|M|](ref float logit, in LogitsContext at)", "it takes logit by reference", null)]
    [InlineData("float [|M|](float logit, in LogitsContext at)", "it is not static", null)]
    [InlineData("static float [|M|]<T>(float logit, in LogitsContext at)", "it is generic", null)]
    public void FI0201_transform(string head, string problem, string? _)
    {
        problem = head.EndsWith("(float logit)", StringComparison.Ordinal) ? "it has another signature" : problem;
        VariantAssert.Class(
            "FI0201",
            $"M is marked [LogitsTransform], but {problem}; expected 'static float M(float logit, in LogitsContext at)'",
            $"[LogitsTransform] private {head} => 0;"
        );
    }

    [Theory]
    [InlineData("LogitsMask", "static int [|M|](in LogitsContext at) => 0;", "bool M(in LogitsContext at, in Arguments a)")]
    [InlineData("FirstKey", "static bool [|M|](in LogitsContext at) => true;", "int M(in LogitsContext at, in Arguments a)")]
    [InlineData("AttentionSink", "static float [|M|](in LogitsContext at) => 0;", "float M(int head, in Arguments a)")]
    [InlineData(
        "QueryTransform",
        "static float [|M|](float element, in LogitsContext at) => 0;",
        "float M(float element, in ElementContext at, in Arguments a)"
    )]
    [InlineData(
        "QueryTransform",
        "static float [|M|](in ElementContext at) => 0;",
        "float M(float element, in ElementContext at, in Arguments a)"
    )]
    [InlineData(
        "OutputTransform",
        "static float [|M|](float element, in ElementContext at) => 0;",
        "float M(float element, float lse2, in ElementContext at, in Arguments a)"
    )]
    public void FI0201_others_name_the_arguments(string attribute, string method, string expected) =>
        VariantAssert.Members(
            "FI0201",
            $"M is marked [{attribute}], but it has another signature; expected 'static {expected}'",
            $"[{attribute}] private {method}"
        );

    [Theory]
    [InlineData("[LogitsTransform] public static float M(float logit, LogitsContext at) => logit;")]
    [InlineData("[LogitsMask] internal static bool M(in LogitsContext at, Arguments a) => a.Flag;")]
    [InlineData("[FirstKey] protected static int M(in LogitsContext at, in Arguments a) => a.Count;")]
    [InlineData("[AttentionSink] static float M(int head) => head;")]
    [InlineData("[QueryTransform] static float M(float element, ElementContext at) => element * at.Element;")]
    [InlineData(
        "[OutputTransform] static float M(float element, float lse2, in ElementContext at, in Arguments a) => element * a.Scale * lse2;"
    )]
    public void Signatures_that_are_right(string method) => VariantAssert.Members("", "", method);

    [Fact]
    public void FI0202_methods() =>
        VariantAssert.Class(
            "FI0202",
            "Second is marked [LogitsMask] and so is First; a variant has one, so call one from the other",
            """
            [LogitsMask] private static bool First(in LogitsContext at) => true;
            [LogitsMask] private static bool [|Second|](in LogitsContext at) => true;
            """
        );

    [Fact]
    public void FI0202_arguments() =>
        VariantAssert.Members(
            "FI0202",
            "More is marked [VariantArguments] and so is Arguments; a variant has one, so call one from the other",
            "[VariantArguments] public readonly ref struct [|More|];"
        );

    [Theory]
    [InlineData(
        "private readonly ref struct",
        "is a parameter of the generated Plan methods, which are public; declare it as 'public readonly ref struct'"
    )]
    [InlineData("public ref struct", "is copied by each plan and may hold spans; declare it as 'public readonly ref struct'")]
    [InlineData("public readonly struct", "is copied by each plan and may hold spans; declare it as 'public readonly ref struct'")]
    public void FI0203_struct(string kind, string message) =>
        VariantAssert.Class("FI0203", "Given " + message, $"[VariantArguments] {kind} [|Given|];");

    [Theory]
    [InlineData(
        "public double [|X|] { get; init; }",
        "is of type double; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
    )]
    [InlineData(
        "public byte [|X|] { get; init; }",
        "is of type byte; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
    )]
    [InlineData(
        "public Span<float> [|X|] { get; init; }",
        "is of type System.Span<float>; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
    )]
    [InlineData(
        "public ReadOnlySpan<long> [|X|] { get; init; }",
        "is of type System.ReadOnlySpan<long>; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
    )]
    [InlineData(
        "public float[] [|X|] { get; init; }",
        "is of type float[]; expected int, uint, float, bool, or a ReadOnlySpan of int, uint, float, bool or byte"
    )]
    [InlineData(
        "public float [|X|] { get; }",
        "cannot be read and set by the generated code; give it a public or internal 'get' and 'init'"
    )]
    [InlineData(
        "private float [|X|] { get; init; }",
        "cannot be read and set by the generated code; give it a public or internal 'get' and 'init'"
    )]
    [InlineData("public readonly float [|X|];", "is a field; make it a property with 'get' and 'init'")]
    [InlineData("public float [|this|][int i] => i;", "is an indexer, which is not one value; use a ReadOnlySpan")]
    public void FI0203_member(string member, string message) =>
        VariantAssert.Class(
            "FI0203",
            (member.Contains("this", StringComparison.Ordinal) ? "this[] " : "X ") + message,
            $"[VariantArguments] public readonly ref struct Given {{ {member} }}"
        );

    [Theory]
    [InlineData(63, true)]
    [InlineData(64, false)]
    public void FI0203_size(int spans, bool isLegal)
    {
        string members = string.Concat(Enumerable.Range(0, spans).Select(static i => $"public ReadOnlySpan<float> S{i} {{ get; init; }} "));
        VariantAssert.Class(
            "FI0203",
            "Given takes 1024 bytes, 4 for each value and 16 for each span; at most 1008 are copied. Use one span for several values",
            $"[VariantArguments] public readonly ref struct {(isLegal ? "Given" : "[|Given|]")} {{ {members} }}"
        );
    }

    [Fact]
    public void FI0204_hook() =>
        VariantAssert.Source(
            "FI0204",
            "Keep is marked [LogitsMask], but Lone has no [AttentionConfig], so nothing asks it; move it into the configuration that it is for",
            "public class Lone { [LogitsMask] private static bool [|Keep|](in LogitsContext at) => true; }"
        );

    [Fact]
    public void FI0204_arguments() =>
        VariantAssert.Source(
            "FI0204",
            "Given is marked [VariantArguments], but Lone has no [AttentionConfig], so nothing asks it; move it into the configuration that it is for",
            "public class Lone { [VariantArguments] public readonly ref struct [|Given|]; }"
        );

    [Theory]
    [InlineData(
        "float[] x = [|new float[4]|]; return x[0];",
        "An array",
        "kernels have no heap; make it a property of the [VariantArguments]"
    )]
    [InlineData("var x = [|new object()|]; return 0;", "'new'", "kernels have no heap; make it a property of the [VariantArguments]")]
    [InlineData("float F(float x) => x; return F(logit);", "A local function", "write a static method of the class and call it")]
    [InlineData(
        "foreach (float x in a.Slopes) { logit += x; } return logit;",
        "'foreach'",
        "write a for loop over the index: for (int i = 0; i < span.Length; i++)"
    )]
    [InlineData(
        "[|throw new Exception();|]",
        "An exception",
        "return a value for this case: false from a mask, float.NegativeInfinity from a transform"
    )]
    [InlineData(
        "return logit > 0 ? logit : [|throw new Exception()|];",
        "An exception",
        "return a value for this case: false from a mask, float.NegativeInfinity from a transform"
    )]
    [InlineData("[|try { return logit; } finally { }|]", "'try'", "nothing throws in a kernel; leave it out")]
    [InlineData("[|lock (new object()) { return logit; }|]", "'lock'", "a method of a variant changes nothing outside it; leave it out")]
    [InlineData(
        "again: logit += 1; if (logit < 0) [|goto again;|] return logit;",
        "'goto'",
        "use a loop with 'break' and 'continue', or a method that returns"
    )]
    [InlineData("int i = 0; return a.Slopes[[|i++|]];", "An increment inside an expression", "make it a statement of its own")]
    [InlineData("float x; float y = [|x = logit|]; return x + y;", "An assignment inside an expression", "make it a statement of its own")]
    [InlineData("(float x, float y) = (logit, logit); return x + y;", "A deconstruction", "use a local for each value")]
    [InlineData("return a.Slopes[[|^1|]];", "An index from the end or a range", "write span[span.Length - 1]")]
    [InlineData("return [|checked(at.Head + 1)|];", "Checked arithmetic", "nothing throws in a kernel; write unchecked(...)")]
    [InlineData(
        "return at.Head is [|int head|] ? head : 0;",
        "A pattern that declares a variable or tests a type",
        "compare with constants, and read the value by its own name"
    )]
    [InlineData("return [|at.Head switch { 0 => 1, 1 => 2 }|];", "A switch that throws for some values", "add an arm '_ =>'")]
    [InlineData("ref readonly float [|x = ref a.Slopes[0]|]; return x;", "A ref local", "copy the value")]
    public void FI0205_construct(string body, string construct, string instead)
    {
        string marked = body.Replace("float F(float x) => x;", "[|float F(float x) => x;|]", StringComparison.Ordinal)
            .Replace("foreach (float x in a.Slopes)", "[|foreach (float x in a.Slopes)|]", StringComparison.Ordinal)
            .Replace("(float x, float y) = (logit, logit)", "[|(float x, float y) = (logit, logit)|]", StringComparison.Ordinal)
            .Replace("[|checked(at.Head + 1)|]", "checked([|at.Head + 1|])", StringComparison.Ordinal)
            .Replace("[|at.Head switch { 0 => 1, 1 => 2 }|]", "[|at.Head switch { 0 => 1, 1 => 2, < 0 => 3 }|]", StringComparison.Ordinal);
        VariantAssert.Body("FI0205", $"{construct} cannot become part of a kernel; {instead}", marked);
    }

    [Theory]
    [InlineData("return (float)([|logit * 0.5|]);", "double", "kernels compute in float: write 0.5f for 0.5, and MathF for Math")]
    [InlineData("double [|x = logit|]; return (float)x;", "double", "kernels compute in float: write 0.5f for 0.5, and MathF for Math")]
    [InlineData(
        "return (int)([|a.Bits + at.Head|]);",
        "long",
        "kernels compute in 32 bits; convert to int first, or both operands to uint"
    )]
    [InlineData("string [|x = \"a\"|]; return 0;", "string", "kernels compute with numbers only")]
    [InlineData("DType [|x = DType.Float16|]; return 0;", "FlashInfer.DType", "convert it to int, or use constants")]
    [InlineData(
        "LogitsContext [|x = at|]; return x.Head;",
        "FlashInfer.LogitsContext",
        "read it through the parameter, where it is needed"
    )]
    [InlineData(
        "(int, int) [|x = default|]; return 0;",
        "(int, int)",
        "kernels have int, uint, float, bool, and ReadOnlySpan of those and of byte"
    )]
    public void FI0206_type(string body, string type, string instead) =>
        VariantAssert.Body("FI0206", $"{type} is no type of kernels; {instead}", body);

    [Theory]
    [InlineData("return (float)[|Math.Sqrt(logit)|];", "", "Math.Sqrt", "computes in double, which kernels do not; call MathF.Sqrt")]
    [InlineData(
        "return [|MathF.Cbrt(logit)|];",
        "",
        "MathF.Cbrt",
        "is not among the functions that kernels have; docs/variants.md lists them"
    )]
    [InlineData(
        "return [|Other.F(logit)|];",
        "private static class Other { public static float F(float x) => x; }",
        "Other.F",
        "is not a method of Subject; only those are lowered with it. Move it there"
    )]
    [InlineData(
        "return [|G<int>(logit)|];",
        "private static float G<T>(float x) => x;",
        "Subject.G",
        "is generic; write it for the types that it is called with"
    )]
    [InlineData(
        "float x = 0; [|Out(ref x)|]; return x;",
        "private static float Out(ref float x) => x;",
        "Subject.Out",
        "has the parameter x by reference, but a method of a variant only returns; make it a value"
    )]
    [InlineData(
        "return [|Text(null!)|];",
        "private static float Text(string x) => 0;",
        "Subject.Text",
        "has the parameter x of type string; expected int, uint, float, bool, a context, the arguments or a span of them"
    )]
    [InlineData(
        "[|Nothing()|]; return 0;",
        "private static void Nothing() { }",
        "Subject.Nothing",
        "returns void; expected int, uint, float or bool"
    )]
    public void FI0207_call(string body, string members, string method, string problem) =>
        VariantAssert.Body("FI0207", $"{method} cannot be called in a kernel: it {problem}", body, members);

    [Fact]
    public void FI0207_recursion() =>
        VariantAssert.Body(
            "FI0207",
            "Subject.Even cannot be called in a kernel: it calls itself in the end, and kernels have no stack; write a loop",
            "return Even(at.Head) ? logit : 0;",
            """
            private static bool Even(int n) => n == 0 || Odd(n - 1);
            private static bool Odd(int n) => n != 0 && [|Even(n - 1)|];
            """
        );

    [Theory]
    [InlineData("[|while (logit < 10)|] { logit += 1; } return logit;")]
    [InlineData("[|do|] { logit += 1; } while (logit < 10); return logit;")]
    [InlineData("[|for (;;)|] { break; } return logit;")]
    [InlineData("[|for (int i = 0; i < a.Count; i--)|] { logit += 1; } return logit;")]
    [InlineData("[|for (int i = 0; i != a.Count; i++)|] { logit += 1; } return logit;")]
    [InlineData("[|for (int i = 0; i < a.Count; i++)|] { i = 0; } return logit;")]
    [InlineData("[|for (int i = 0; i < a.Count; i++)|] { if (logit > 0) { i -= 1; } } return logit;")]
    [InlineData("int n = 9; [|for (int i = 0; i < n; i++)|] { n++; } return n;")]
    [InlineData("[|for (int i = 0; i < a.Count; i += at.Head)|] { logit += 1; } return logit;")]
    [InlineData("[|for (int i = 0; i < a.Count; i *= 2)|] { logit += 1; } return logit;")]
    [InlineData("[|for (uint i = 9; i >= 0; i--)|] { logit += 1; } return logit;")]
    [InlineData("[|for (int i = 0; i <= int.MaxValue; i++)|] { logit += 1; } return logit;")]
    [InlineData("[|for (float x = 0; x < 1; x += 0.1f)|] { logit += 1; } return logit;")]
    [InlineData("[|for (int i = 0; i < a.Count || logit < 0; i++)|] { logit += 1; } return logit;")]
    public void FI0208_loop(string body)
    {
        string keyword = body[(body.IndexOf("[|", StringComparison.Ordinal) + 2)..].Split(' ', '|')[0];
        VariantAssert.Body(
            "FI0208",
            $"This '{keyword}' has no bound that can be seen, and a loop that does not end hangs the GPU; write for (int i = start; i < end; i++), where the body changes neither i nor end, with further conditions behind &&",
            body
        );
    }

    [Theory]
    [InlineData("for (int i = 0; i < a.Count; i++) { logit += a.Slopes[i]; } return logit;")]
    [InlineData("for (int i = a.Count; i > 0; i -= 2) { if (i == 3) { continue; } logit += 1; } return logit;")]
    [InlineData("for (uint i = 9; i > 0; --i) { logit += 1; } return logit;")]
    [InlineData("for (int i = 0; logit < 10 && a.Count >= i; i = i + 3) { logit += 1; } return logit;")]
    [InlineData("int i; for (i = 0; i < 4; i++) { if (logit > i) { break; } } return i;")]
    [InlineData("for (int i = 0, j = 9; i < j; i++) { logit += j; } return logit;")]
    public void Loops_that_end(string body) => VariantAssert.IsLegal(body.Replace("i = i + 3", "i += 3", StringComparison.Ordinal));

    [Theory]
    [InlineData(
        "return logit * [|s_scale|];",
        "private static float s_scale = 1;",
        "s_scale",
        "can change while kernels run; make it a property of the [VariantArguments], or const"
    )]
    [InlineData(
        "return logit * [|s_now|];",
        "private static readonly float s_now = Environment.TickCount;",
        "s_now",
        "has no constant value; write a constant, or make it a property of the [VariantArguments]"
    )]
    [InlineData(
        "return logit * [|Scale|];",
        "private static float Scale => 2;",
        "Scale",
        "is computed each time that it is read; make it a property of the [VariantArguments], const, or a static method of the class"
    )]
    public void FI0209_state(string body, string members, string name, string problem) =>
        VariantAssert.Body("FI0209", $"{name} {problem}", body, members);

    [Fact]
    public void Constants_are_no_state() =>
        VariantAssert.IsLegal(
            "const float Half = 0.5f; return logit * Half * Scale * s_offset * MathF.PI * GroupSize * Other.Value;",
            """
            private const float Scale = 2;
            private static readonly float s_offset = 3;
            private static class Other { public const int Value = 4; }
            """
        );

    [Theory]
    [InlineData("[FirstKey] private static int First(in LogitsContext at) => [|at.KvPosition|];", "KvPosition is")]
    [InlineData("[FirstKey] private static int First(in LogitsContext at) => at.QoPosition - [|at.Head|];", "Head is")]
    [InlineData(
        "[FirstKey] private static int First(in LogitsContext at) => [|Own(at)|]; private static int Own(in LogitsContext at) => at.KvHead;",
        "Own reads KvPosition, Head or KvHead, which are"
    )]
    public void FI0210_first_key(string members, string what) =>
        VariantAssert.Class(
            "FI0210",
            $"{what} 0 in a [FirstKey], which is asked once for all heads and before there is a key; compute the bound from QoPosition, Sequence, QoLen and KvLen",
            members
        );

    [Fact]
    public void What_the_compiler_reports_is_not_reported_again() =>
        VariantAssert.Body("CS0103", "The name 'unknown' does not exist in the current context", "return logit + [|unknown|] * 2;");

    [Fact]
    public void Each_problem_is_reported_once_and_all_of_them_are() =>
        VariantAssert.Body(
            "FI0206",
            "double is no type of kernels; kernels compute in float: write 0.5f for 0.5, and MathF for Math",
            """
            for (int i = 0; i < (int)([|a.Scale * 2.0|]); i++)
            {
                logit += (float)([|logit + 0.5|]);
            }

            return Helper(logit) + Helper(1);
            """,
            "private static float Helper(float x) => (float)([|x * 0.5|]);"
        );
}
