using System.Globalization;
using System.Text;

namespace FlashInfer.Tests.Fuzz;

/// <summary>
/// A random variant of attention, in the C# that can be lowered: the same seed gives the same text. Divisions by zero and indices out of
/// range are rare but happen; C# throws there, and such rows are not compared.
/// </summary>
internal sealed class FuzzProgram
{
    /// <summary>Elements of each span.</summary>
    public const int SpanLength = 8;

    /// <summary>The arguments and constants that a program may use: its first members.</summary>
    public const string Arguments = """
            [VariantArguments]
            public readonly ref struct Arguments
            {
                public int A { get; init; }
                public int B { get; init; }
                public uint U { get; init; }
                public uint V { get; init; }
                public float F { get; init; }
                public float G { get; init; }
                public bool Flag { get; init; }
                public ReadOnlySpan<int> Ints { get; init; }
                public ReadOnlySpan<uint> Uints { get; init; }
                public ReadOnlySpan<float> Floats { get; init; }
                public ReadOnlySpan<byte> Bytes { get; init; }
                public ReadOnlySpan<bool> Bools { get; init; }
            }

            private const int Constant = 77;
            private static readonly float s_fixed = -2.5f;


        """;

    private const int MaxDepth = 4;

    private static readonly string[] s_ints =
    [
        "0",
        "1",
        "-1",
        "2",
        "3",
        "7",
        "31",
        "32",
        "33",
        "100",
        "-64",
        "int.MaxValue",
        "int.MinValue",
    ];
    private static readonly string[] s_uints = ["0u", "1u", "2u", "5u", "31u", "64u", "1000u", "uint.MaxValue", "0x80000000u"];
    private static readonly string[] s_floats =
    [
        "0f",
        "-0f",
        "1f",
        "-1f",
        "0.5f",
        "3.25f",
        "-7.75f",
        "1e-3f",
        "1e10f",
        "-3e38f",
        "1e-42f",
        "float.NaN",
        "float.PositiveInfinity",
        "float.NegativeInfinity",
        "MathF.PI",
    ];

    // What contexts have of integers: of a query token, of its logit with a key, of an element of its query or output.
    private static readonly string[] s_rowContext = ["Sequence", "QoIndex", "QoPosition", "QoLen", "KvLen"];
    private static readonly string[] s_keyContext = [.. s_rowContext, "KvPosition", "Head", "KvHead"];
    private static readonly string[] s_elementContext = [.. s_rowContext, "Element", "Head", "KvHead"];

    private readonly Random _random;
    private readonly bool _exactOnly;
    private readonly StringBuilder _text = new();
    private readonly List<Method> _helpers = [];
    private readonly List<Variable> _scope = [];
    private int _names;
    private int _indent = 1;
    private string[] _context = [];
    private bool _isHook;
    private int _loops;

    private FuzzProgram(int seed, bool exactOnly)
    {
        _random = new Random(seed);
        _exactOnly = exactOnly;
    }

    private enum Kind
    {
        Int,
        UInt,
        Float,
        Bool,
    }

    /// <summary>The members of a configuration.</summary>
    /// <param name="seed">The seed.</param>
    /// <param name="exactOnly">Whether to leave out what a GPU rounds in another way than .NET, if only where numbers are subnormal.</param>
    public static string Members(int seed, bool exactOnly) => new FuzzProgram(seed, exactOnly).Write();

    private string Write()
    {
        _text.Append(Arguments);
        for (int i = 0; i < 3; i++)
        {
            Method helper = new($"Helper{i}", Pick<Kind>(), [.. Enumerable.Range(0, 1 + _random.Next(3)).Select(_ => Pick<Kind>())]);
            string parameters = string.Join(", ", helper.Parameters.Select(static (kind, i) => $"{Type(kind)} p{i}"));
            Function("", helper.Result, $"{helper.Name}({parameters}, in Arguments a)", helper.Parameters, []);
            _helpers.Add(helper);
        }

        Function("LogitsTransform", Kind.Float, "Transform(float p0, in LogitsContext at, in Arguments a)", [Kind.Float], s_keyContext);
        Function("LogitsMask", Kind.Bool, "Keep(in LogitsContext at, in Arguments a)", [], s_keyContext);
        Function("FirstKey", Kind.Int, "FirstKey(in LogitsContext at, in Arguments a)", [], s_rowContext);
        Function("AttentionSink", Kind.Float, "Sink(int p0, in Arguments a)", [Kind.Int], []);
        Function(
            "QueryTransform",
            Kind.Float,
            "QueryElement(float p0, in ElementContext at, in Arguments a)",
            [Kind.Float],
            s_elementContext
        );
        Function(
            "OutputTransform",
            Kind.Float,
            "OutputElement(float p0, float p1, in ElementContext at, in Arguments a)",
            [Kind.Float, Kind.Float],
            s_elementContext
        );
        return _text.ToString();
    }

    private void Function(string attribute, Kind result, string head, Kind[] parameters, string[] context)
    {
        _context = context;
        _isHook = attribute.Length > 0;
        _scope.Clear();
        _scope.AddRange(parameters.Select(static (kind, i) => new Variable($"p{i}", kind, true)));
        if (attribute.Length > 0)
        {
            Line($"[{attribute}]");
        }

        Line($"public static {Type(result)} {head}");
        Open();
        // Constants may overflow, which would be an error outside.
        Line("unchecked");
        Open();
        int statements = 2 + _random.Next(4);
        for (int i = 0; i < statements; i++)
        {
            Statement(result);
        }

        Line($"return {Any(result, MaxDepth)};");
        Close();
        Close();
        _text.Append('\n');
    }

    private void Block(Kind result, int statements)
    {
        int outer = _scope.Count;
        Open();
        for (int i = 0; i < statements; i++)
        {
            Statement(result);
        }

        Close();
        _scope.RemoveRange(outer, _scope.Count - outer);
    }

    private void Statement(Kind result)
    {
        switch (_random.Next(12))
        {
            case 0 or 1 or 2 or 3:
                Kind kind = Pick<Kind>();
                string value = Any(kind, MaxDepth);
                Variable local = new($"v{_names++}", kind, true);
                Line($"{Type(kind)} {local.Name} = {value};");
                _scope.Add(local);
                break;
            case 4 or 5:
                Assignment();
                break;
            case 6 or 7:
                Line($"if ({Any(Kind.Bool, MaxDepth)})");
                Block(result, 1 + _random.Next(2));
                if (_random.Next(2) == 0)
                {
                    Line("else");
                    Block(result, 1 + _random.Next(2));
                }

                break;
            case 8 when _loops < 2:
                Loop(result);
                break;
            case 9:
                Switch(result);
                break;
            case 10:
                Line($"if ({Any(Kind.Bool, MaxDepth)})");
                Open();
                Line($"return {Any(result, MaxDepth - 1)};");
                Close();
                break;
            default:
                Assignment();
                break;
        }
    }

    private void Assignment()
    {
        Variable[] targets = [.. _scope.Where(static variable => variable.IsAssignable)];
        if (targets.Length == 0)
        {
            return;
        }

        Variable target = targets[_random.Next(targets.Length)];
        string[] compound = target.Kind switch
        {
            Kind.Int or Kind.UInt => ["+=", "-=", "*=", "&=", "|=", "^=", "<<=", ">>=", ">>>="],
            Kind.Float => ["+=", "-=", "*="],
            _ => ["&=", "|=", "^="],
        };
        switch (_random.Next(4))
        {
            case 0 when target.Kind != Kind.Bool:
                Line($"{target.Name}{Of("++", "--")};");
                break;
            case 1 or 2:
                string symbol = Of(compound);
                bool isShift = symbol is "<<=" or ">>=" or ">>>=";
                Line($"{target.Name} {symbol} {Any(isShift ? Kind.Int : target.Kind, MaxDepth - 1)};");
                break;
            default:
                Line($"{target.Name} = {Any(target.Kind, MaxDepth)};");
                break;
        }
    }

    private void Loop(Kind result)
    {
        _loops++;
        string name = $"i{_names++}";
        int step = _random.Next(1, 4);
        // The last two come to the end of their type: without the break C# would wrap around and go on.
        (string head, string? leave) = _random.Next(6) switch
        {
            0 => ($"int {name} = 0; {name} < {_random.Next(1, 6)}; {name}++", null),
            1 => ($"int {name} = {_random.Next(1, 9)}; {name} >= 0; {name} -= {step}", null),
            2 => ($"int {name} = 0; {name} < a.Ints.Length && {Any(Kind.Bool, 2)}; {name} += 2", null),
            3 => ($"int {name} = 0; a.Bytes.Length > {name}; {name}++", null),
            4 => (
                $"int {name} = int.MaxValue - {_random.Next(6)}; {name} <= (a.{Of("A", "B")} | int.MaxValue); {name} += {step}",
                $"{name} > int.MaxValue - {step}"
            ),
            _ => ($"uint {name} = {_random.Next(6)}; {name} >= (a.{Of("U", "V")} & 1); {name} -= {step}", $"{name} < {step}"),
        };
        Line($"for ({head})");
        _scope.Add(new Variable(name, head[0] == 'u' ? Kind.UInt : Kind.Int, false));
        int outer = _scope.Count;
        Open();
        Statement(result);
        if (leave is not null)
        {
            Line($"if ({leave})");
            Open();
            Line("break;");
            Close();
        }

        if (_random.Next(3) == 0)
        {
            Line($"if ({Any(Kind.Bool, 2)})");
            Open();
            Line(Of("break;", "continue;"));
            Close();
        }

        Statement(result);
        Close();
        _scope.RemoveRange(outer, _scope.Count - outer);
        _scope.RemoveAt(outer - 1);
        _loops--;
    }

    private void Switch(Kind result)
    {
        bool isPlain = _random.Next(2) == 0;
        Line($"switch ({Value(Kind.Int)})");
        Open();
        int at = _random.Next(-20, 20);
        for (int i = 0; i < 3; i++)
        {
            Line(
                isPlain ? $"case {Number(at)}:"
                : i == 1 ? $"case > {Number(at)} when a.Flag != {Any(Kind.Bool, 2)}:"
                : $"case {Number(at)}:"
            );
            Block(result, 1);
            Line("    break;");
            at += _random.Next(1, 30);
        }

        if (_random.Next(2) == 0)
        {
            Line("default:");
            Block(result, 1);
            Line("    break;");
        }

        Close();
    }

    private string Any(Kind kind, int depth)
    {
        if (depth <= 0 || _random.Next(5) == 0)
        {
            return _random.Next(3) == 0 ? Literal(kind) : Value(kind);
        }

        if (_random.Next(10) == 0)
        {
            return $"({Any(Kind.Bool, depth - 1)} ? {Any(kind, depth - 1)} : {Any(kind, depth - 1)})";
        }

        if (_random.Next(14) == 0)
        {
            int first = _random.Next(-50, 50);
            return $"({Value(Kind.Int)} switch {{ < {Number(first)} => {Any(kind, depth - 1)}, {Number(first + 3)} or {Number(first + 9)} => {Any(kind, depth - 1)}, _ => {Any(kind, depth - 1)} }})";
        }

        // Helpers that call each other grow without end: everything is inlined.
        if (_isHook && _random.Next(10) == 0 && _helpers.Find(helper => helper.Result == kind) is { } method)
        {
            return $"{method.Name}({string.Join(", ", method.Parameters.Select(parameter => Any(parameter, depth - 2)))}, a)";
        }

        return kind switch
        {
            Kind.Int => Int(depth - 1),
            Kind.UInt => UInt(depth - 1),
            Kind.Float => Float(depth - 1),
            _ => Bool(depth - 1),
        };
    }

    private string Int(int depth)
    {
        switch (_random.Next(16))
        {
            case 0 or 1 or 2 or 3:
                return $"({Any(Kind.Int, depth)} {Of("+", "-", "*", "&", "|", "^")} {Any(Kind.Int, depth)})";
            case 4:
                return $"({Any(Kind.Int, depth)} {Of("/", "%")} ({Value(Kind.Int)} | 1))";
            case 5:
                return $"({Value(Kind.Int)} {Of("/", "%")} {Of("3", "16", "-1", "-7", Value(Kind.Int))})";
            case 6 or 7:
                return $"({Any(Kind.Int, depth)} {Of("<<", ">>", ">>>")} {Any(Kind.Int, depth)})";
            case 8:
                return $"{Of("-", "~")}({Any(Kind.Int, depth)})";
            case 9:
                // The compiler says nothing of constants outside the range, so a variable comes first.
                return $"(int)({Value(Kind.Float)} {Of("+", "-", "*")} {Any(Kind.Float, depth)})";
            case 10:
                return $"(int)({Value(Kind.UInt)} ^ {Any(Kind.UInt, depth)})";
            case 11:
                return $"Math.{Of("Min", "Max")}({Any(Kind.Int, depth)}, {Any(Kind.Int, depth)})";
            case 12:
                return $"Math.Clamp({Any(Kind.Int, depth)}, -5, {Of("5", "99")})";
            case 13:
                return Of(
                    $"Math.Sign({Any(Kind.Int, depth)})",
                    $"Math.Abs({Any(Kind.Int, depth)} >> 1)",
                    $"MathF.Sign({Value(Kind.Float)})"
                );
            case 14:
                return $"BitOperations.{Of("PopCount", "LeadingZeroCount", "TrailingZeroCount")}({Any(Kind.UInt, depth)})";
            default:
                return $"(a.Bytes[{Index(depth)}] {Of("+", "<<", "*")} {Any(Kind.Int, depth)})";
        }
    }

    private string UInt(int depth)
    {
        switch (_random.Next(10))
        {
            case 0 or 1 or 2:
                return $"({Any(Kind.UInt, depth)} {Of("+", "-", "*", "&", "|", "^")} {Any(Kind.UInt, depth)})";
            case 3:
                return $"({Any(Kind.UInt, depth)} {Of("/", "%")} ({Value(Kind.UInt)} | 1u))";
            case 4:
                return $"({Any(Kind.UInt, depth)} {Of("<<", ">>", ">>>")} {Any(Kind.Int, depth)})";
            case 5:
                return $"(uint)({Value(Kind.Int)} + {Any(Kind.Int, depth)})";
            case 6:
                return $"(uint)({Value(Kind.Float)} {Of("+", "*")} {Any(Kind.Float, depth)})";
            case 7:
                return Of(
                    $"Math.{Of("Min", "Max")}({Any(Kind.UInt, depth)}, {Any(Kind.UInt, depth)})",
                    $"Math.Clamp({Any(Kind.UInt, depth)}, 3u, 900u)"
                );
            case 8:
                return $"BitOperations.Rotate{Of("Left", "Right")}({Any(Kind.UInt, depth)}, {Any(Kind.Int, depth)})";
            default:
                return $"~{Any(Kind.UInt, depth)}";
        }
    }

    private string Float(int depth)
    {
        switch (_random.Next(12))
        {
            case 0 or 1 or 2 or 3:
                return $"({Any(Kind.Float, depth)} {Of("+", "-", "*", _exactOnly ? "-" : "/")} {Any(Kind.Float, depth)})";
            case 4:
                return $"({Any(Kind.Float, depth)} % {Any(Kind.Float, depth)})";
            case 5:
                return $"(float){Of(Any(Kind.Int, depth), Any(Kind.UInt, depth))}";
            case 6:
                // The sign of a NaN is the machine's.
                return Of(
                    $"MathF.{Of("Min", "Max")}({Any(Kind.Float, depth)}, {Any(Kind.Float, depth)})",
                    $"MathF.CopySign({Any(Kind.Float, depth)}, (float){Any(Kind.Int, depth)})"
                );
            case 7:
                return $"MathF.{Of("Abs", "Floor", "Ceiling", "Round", "Truncate", _exactOnly ? "Abs" : "Sqrt")}({Any(Kind.Float, depth)})";
            case 8:
                return $"MathF.FusedMultiplyAdd({Any(Kind.Float, depth)}, {Any(Kind.Float, depth)}, {Any(Kind.Float, depth)})";
            case 9:
                return $"Math.Clamp({Any(Kind.Float, depth)}, -2f, 9.5f)";
            case 10 when !_exactOnly:
                return Of(
                    $"MathF.{Of("Exp", "Log", "Log2", "Tanh", "Sin", "Cos")}({Any(Kind.Float, depth)})",
                    $"MathF.Pow({Any(Kind.Float, depth)}, {Any(Kind.Float, depth)})"
                );
            default:
                return $"-({Any(Kind.Float, depth)})";
        }
    }

    private string Bool(int depth)
    {
        Kind kind = Of(Kind.Int, Kind.UInt, Kind.Float);
        switch (_random.Next(9))
        {
            case 0 or 1 or 2 or 3:
                return $"({Any(kind, depth)} {Of("<", "<=", ">", ">=", "==", "!=")} {Any(kind, depth)})";
            case 4 or 5:
                return $"({Any(Kind.Bool, depth)} {Of("&&", "||", "&", "|", "^", "==", "!=")} {Any(Kind.Bool, depth)})";
            case 6:
                int first = _random.Next(-9, 40);
                string pattern = Of(
                    $"> {Number(first)}",
                    $"{Number(first)} or {Number(first + 2)}",
                    $">= {Number(first)} and < {Number(first + 9)}",
                    $"not {Number(first)}"
                );
                return $"({Of(Value(Kind.Int), $"({Value(Kind.Int)} + {Any(Kind.Int, depth)})")} is {pattern})";
            case 7:
                return Of(
                    $"float.{Of("IsNaN", "IsInfinity", "IsFinite", "IsPositiveInfinity", "IsNegativeInfinity")}({Any(Kind.Float, depth)})",
                    $"BitOperations.IsPow2({Any(Of(Kind.Int, Kind.UInt), depth)})"
                );
            default:
                return $"!{Any(Kind.Bool, depth)}";
        }
    }

    private string Index(int depth) => _random.Next(20) == 0 ? Value(Kind.Int) : $"({Any(Kind.Int, depth)} & 7)";

    /// <summary>Something that the compiler does not know.</summary>
    private string Value(Kind kind)
    {
        Variable[] variables = [.. _scope.Where(variable => variable.Kind == kind)];
        if (variables.Length > 0 && _random.Next(2) == 0)
        {
            return variables[_random.Next(variables.Length)].Name;
        }

        string index = _random.Next(2) == 0 ? Number(_random.Next(SpanLength)) : $"({(_context.Length > 0 ? "at.Sequence" : "a.A")} & 7)";
        return kind switch
        {
            Kind.Int when _context.Length > 0 && _random.Next(3) > 0 => "at." + Of(_context),
            Kind.Int => Of("a.A", "a.B", $"a.Ints[{index}]", $"(int)a.Bytes[{index}]"),
            Kind.UInt => Of("a.U", "a.V", $"a.Uints[{index}]"),
            Kind.Float => Of("a.F", "a.G", $"a.Floats[{index}]"),
            _ => Of("a.Flag", $"a.Bools[{index}]"),
        };
    }

    private string Literal(Kind kind) =>
        kind switch
        {
            Kind.Int => _random.Next(6) == 0 ? "Constant" : Of(s_ints),
            Kind.UInt => Of(s_uints),
            Kind.Float => _random.Next(6) == 0 ? "s_fixed" : Of(s_floats),
            _ => Of("true", "false"),
        };

    private static string Type(Kind kind) => kind.ToString().ToLowerInvariant();

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);

    private T Of<T>(params T[] choices) => choices[_random.Next(choices.Length)];

    private TEnum Pick<TEnum>()
        where TEnum : struct, Enum => Of(Enum.GetValues<TEnum>());

    private void Line(string line) => _text.Append(' ', _indent * 4).Append(line).Append('\n');

    private void Open()
    {
        Line("{");
        _indent++;
    }

    private void Close()
    {
        _indent--;
        Line("}");
    }

    private sealed record Variable(string Name, Kind Kind, bool IsAssignable);

    private sealed record Method(string Name, Kind Result, Kind[] Parameters);
}
