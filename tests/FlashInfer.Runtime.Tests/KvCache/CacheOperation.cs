using CsCheck;

namespace FlashInfer.Tests.KvCache;

internal enum CacheOperationKind
{
    New,
    Begin,
    TryBegin,
    End,
    Accept,
    Abandon,
    Free,
    Fork,
    Plan,
}

/// <summary>One member of a batch before it is known which sequences exist.</summary>
/// <param name="Number">Which sequence, modulo those there are.</param>
/// <param name="Choice">Legal sequences below 90; above it freed, foreign, null or any.</param>
/// <param name="Tokens">New or accepted tokens; 0, negative and huge ones included.</param>
internal readonly record struct CacheOperand(int Number, int Choice, int Tokens);

/// <summary>One call on a cache, legal or not.</summary>
internal sealed record CacheOperation(CacheOperationKind Kind, CacheOperand[] Operands)
{
    private static readonly Gen<int> s_tokens = Gen.Frequency(
        (12, Gen.Int[1, 4]),
        (6, Gen.Int[5, 40]),
        (3, Gen.Int[41, 400]),
        (1, Gen.OneOf(0, -1, int.MinValue, int.MaxValue, int.MaxValue - 1, 100_000))
    );

    private static readonly Gen<CacheOperand> s_operand = Gen.Select(
        Gen.Int[0, 1_000],
        Gen.Int[0, 99],
        s_tokens,
        (number, choice, tokens) => new CacheOperand(number, choice, tokens)
    );

    // One sequence goes through the overloads for one, more through those for a batch.
    private static readonly Gen<CacheOperand[]> s_operands = Gen.Frequency(
        (6, s_operand.Array[1]),
        (4, s_operand.Array[2, 6]),
        (1, s_operand.Array[0])
    );

    public static Gen<CacheOperation> Any { get; } =
        Gen.Frequency(
            (3, Make(CacheOperationKind.New, Gen.Const(Array.Empty<CacheOperand>()))),
            (8, Make(CacheOperationKind.Begin, s_operands)),
            (3, Make(CacheOperationKind.TryBegin, s_operands)),
            (6, Make(CacheOperationKind.End, s_operands)),
            (4, Make(CacheOperationKind.Accept, s_operands)),
            (4, Make(CacheOperationKind.Abandon, s_operands)),
            (2, Make(CacheOperationKind.Free, s_operand.Array[1])),
            (4, Make(CacheOperationKind.Fork, s_operand.Array[1])),
            (3, Make(CacheOperationKind.Plan, s_operands))
        );

    public override string ToString() => $"{Kind}({string.Join(", ", Operands)})";

    private static Gen<CacheOperation> Make(CacheOperationKind kind, Gen<CacheOperand[]> operands) =>
        operands.Select(batch => new CacheOperation(kind, batch));
}
