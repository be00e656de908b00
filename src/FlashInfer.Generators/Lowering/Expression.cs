namespace FlashInfer.Generators.Lowering;

/// <summary>How tightly an operator of C++ binds, the loosest first.</summary>
internal enum Precedence
{
    Conditional,
    Or,
    And,
    BitOr,
    BitXor,
    BitAnd,
    Equality,
    Relational,
    Shift,
    Additive,
    Multiplicative,
    Unary,
    Primary,
}

/// <summary>An expression in CUDA. It has no side effects, so that it may be written where it is read, and twice.</summary>
/// <param name="Text">The text.</param>
/// <param name="Precedence">Of its outermost operator.</param>
/// <param name="Range">What it may be, if it is an integer.</param>
internal sealed record Expression(string Text, Precedence Precedence, Interval Range)
{
    /// <summary>The value of a constant; null for anything else.</summary>
    public object? Constant { get; init; }

    public static Expression Primary(string text, Interval range = default) => new(text, Precedence.Primary, range);

    /// <summary>Stands for what could not be lowered and was reported.</summary>
    public static readonly Expression None = Primary("0", Interval.Int);

    /// <summary>The text as an operand: in parentheses where it binds less tightly than asked for.</summary>
    public string As(Precedence least) => Precedence >= least ? Text : $"({Text})";
}
