using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics;

namespace FlashInfer.Cpu;

/// <summary>
/// Products of the query heads of one KV head with the keys of a block of tokens. One load of a row serves every head of a tile, and the tile's sums stay in registers; hence a method for each tile height.
/// </summary>
internal static unsafe class ScoreTiles<TSimd, TVector>
    where TSimd : ISimd<TVector>
    where TVector : struct
{
    private const int BlockTokens = CpuScratch.BlockTokens;

    /// <summary>Writes scores[head * BlockTokens + token] for every head and token, and for up to 3 more tokens.</summary>
    /// <param name="query">Scaled query, [heads, headDim].</param>
    /// <param name="rows">The tokens' keys; offsets are valid up to a multiple of 4.</param>
    /// <param name="tokens">Tokens, 1 to BlockTokens.</param>
    /// <param name="heads">Heads.</param>
    /// <param name="headDim">Elements of a head.</param>
    /// <param name="scores">Output.</param>
    public static void Score<TElement>(float* query, in RowBlock rows, int tokens, int heads, int headDim, float* scores)
        where TElement : IElement
    {
        // The first tile has asked for what comes next.
        RowBlock later = rows.WithoutAhead;
        int head = 0;
        if (TSimd.HeadTile == 4)
        {
            for (; head + 4 <= heads; head += 4)
            {
                Score4<TElement>(query + (head * headDim), head == 0 ? rows : later, tokens, headDim, scores + (head * BlockTokens));
            }
        }

        for (; head + 2 <= heads; head += 2)
        {
            Score2<TElement>(query + (head * headDim), head == 0 ? rows : later, tokens, headDim, scores + (head * BlockTokens));
        }

        if (head < heads)
        {
            Score1<TElement>(query + (head * headDim), head == 0 ? rows : later, tokens, headDim, scores + (head * BlockTokens));
        }
    }

    /// <summary>Scores of 4 heads against 4 tokens at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Score4<TElement>(float* query, in RowBlock rows, int tokens, int headDim, float* scores)
        where TElement : IElement
    {
        for (int token = 0; token < tokens; token += 4)
        {
            rows.PrefetchAhead(token, headDim * TElement.Size);
            byte* row0 = rows.Base + rows.Offsets[token];
            byte* row1 = rows.Base + rows.Offsets[token + 1];
            byte* row2 = rows.Base + rows.Offsets[token + 2];
            byte* row3 = rows.Base + rows.Offsets[token + 3];
            TVector s00 = TSimd.Create(0f);
            TVector s01 = TSimd.Create(0f);
            TVector s02 = TSimd.Create(0f);
            TVector s03 = TSimd.Create(0f);
            TVector s10 = TSimd.Create(0f);
            TVector s11 = TSimd.Create(0f);
            TVector s12 = TSimd.Create(0f);
            TVector s13 = TSimd.Create(0f);
            TVector s20 = TSimd.Create(0f);
            TVector s21 = TSimd.Create(0f);
            TVector s22 = TSimd.Create(0f);
            TVector s23 = TSimd.Create(0f);
            TVector s30 = TSimd.Create(0f);
            TVector s31 = TSimd.Create(0f);
            TVector s32 = TSimd.Create(0f);
            TVector s33 = TSimd.Create(0f);

            for (int d = 0; d < headDim; d += TSimd.Count)
            {
                int offset = d * TElement.Size;
                TVector k0 = TElement.Load<TSimd, TVector>(row0 + offset);
                TVector k1 = TElement.Load<TSimd, TVector>(row1 + offset);
                TVector k2 = TElement.Load<TSimd, TVector>(row2 + offset);
                TVector k3 = TElement.Load<TSimd, TVector>(row3 + offset);

                TVector q = TSimd.Load(query + d);
                s00 = TSimd.MultiplyAdd(q, k0, s00);
                s01 = TSimd.MultiplyAdd(q, k1, s01);
                s02 = TSimd.MultiplyAdd(q, k2, s02);
                s03 = TSimd.MultiplyAdd(q, k3, s03);

                q = TSimd.Load(query + headDim + d);
                s10 = TSimd.MultiplyAdd(q, k0, s10);
                s11 = TSimd.MultiplyAdd(q, k1, s11);
                s12 = TSimd.MultiplyAdd(q, k2, s12);
                s13 = TSimd.MultiplyAdd(q, k3, s13);

                q = TSimd.Load(query + (2 * headDim) + d);
                s20 = TSimd.MultiplyAdd(q, k0, s20);
                s21 = TSimd.MultiplyAdd(q, k1, s21);
                s22 = TSimd.MultiplyAdd(q, k2, s22);
                s23 = TSimd.MultiplyAdd(q, k3, s23);

                q = TSimd.Load(query + (3 * headDim) + d);
                s30 = TSimd.MultiplyAdd(q, k0, s30);
                s31 = TSimd.MultiplyAdd(q, k1, s31);
                s32 = TSimd.MultiplyAdd(q, k2, s32);
                s33 = TSimd.MultiplyAdd(q, k3, s33);
            }

            TSimd.Sum4(s00, s01, s02, s03).Store(scores + token);
            TSimd.Sum4(s10, s11, s12, s13).Store(scores + BlockTokens + token);
            TSimd.Sum4(s20, s21, s22, s23).Store(scores + (2 * BlockTokens) + token);
            TSimd.Sum4(s30, s31, s32, s33).Store(scores + (3 * BlockTokens) + token);
        }
    }

    /// <summary>Scores of 2 heads against 4 tokens at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Score2<TElement>(float* query, in RowBlock rows, int tokens, int headDim, float* scores)
        where TElement : IElement
    {
        for (int token = 0; token < tokens; token += 4)
        {
            rows.PrefetchAhead(token, headDim * TElement.Size);
            byte* row0 = rows.Base + rows.Offsets[token];
            byte* row1 = rows.Base + rows.Offsets[token + 1];
            byte* row2 = rows.Base + rows.Offsets[token + 2];
            byte* row3 = rows.Base + rows.Offsets[token + 3];
            TVector s00 = TSimd.Create(0f);
            TVector s01 = TSimd.Create(0f);
            TVector s02 = TSimd.Create(0f);
            TVector s03 = TSimd.Create(0f);
            TVector s10 = TSimd.Create(0f);
            TVector s11 = TSimd.Create(0f);
            TVector s12 = TSimd.Create(0f);
            TVector s13 = TSimd.Create(0f);

            for (int d = 0; d < headDim; d += TSimd.Count)
            {
                int offset = d * TElement.Size;
                TVector k0 = TElement.Load<TSimd, TVector>(row0 + offset);
                TVector k1 = TElement.Load<TSimd, TVector>(row1 + offset);
                TVector k2 = TElement.Load<TSimd, TVector>(row2 + offset);
                TVector k3 = TElement.Load<TSimd, TVector>(row3 + offset);

                TVector q = TSimd.Load(query + d);
                s00 = TSimd.MultiplyAdd(q, k0, s00);
                s01 = TSimd.MultiplyAdd(q, k1, s01);
                s02 = TSimd.MultiplyAdd(q, k2, s02);
                s03 = TSimd.MultiplyAdd(q, k3, s03);

                q = TSimd.Load(query + headDim + d);
                s10 = TSimd.MultiplyAdd(q, k0, s10);
                s11 = TSimd.MultiplyAdd(q, k1, s11);
                s12 = TSimd.MultiplyAdd(q, k2, s12);
                s13 = TSimd.MultiplyAdd(q, k3, s13);
            }

            TSimd.Sum4(s00, s01, s02, s03).Store(scores + token);
            TSimd.Sum4(s10, s11, s12, s13).Store(scores + BlockTokens + token);
        }
    }

    /// <summary>Scores of 1 head against 4 tokens at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Score1<TElement>(float* query, in RowBlock rows, int tokens, int headDim, float* scores)
        where TElement : IElement
    {
        for (int token = 0; token < tokens; token += 4)
        {
            rows.PrefetchAhead(token, headDim * TElement.Size);
            byte* row0 = rows.Base + rows.Offsets[token];
            byte* row1 = rows.Base + rows.Offsets[token + 1];
            byte* row2 = rows.Base + rows.Offsets[token + 2];
            byte* row3 = rows.Base + rows.Offsets[token + 3];
            TVector s00 = TSimd.Create(0f);
            TVector s01 = TSimd.Create(0f);
            TVector s02 = TSimd.Create(0f);
            TVector s03 = TSimd.Create(0f);

            for (int d = 0; d < headDim; d += TSimd.Count)
            {
                int offset = d * TElement.Size;
                TVector k0 = TElement.Load<TSimd, TVector>(row0 + offset);
                TVector k1 = TElement.Load<TSimd, TVector>(row1 + offset);
                TVector k2 = TElement.Load<TSimd, TVector>(row2 + offset);
                TVector k3 = TElement.Load<TSimd, TVector>(row3 + offset);

                TVector q = TSimd.Load(query + d);
                s00 = TSimd.MultiplyAdd(q, k0, s00);
                s01 = TSimd.MultiplyAdd(q, k1, s01);
                s02 = TSimd.MultiplyAdd(q, k2, s02);
                s03 = TSimd.MultiplyAdd(q, k3, s03);
            }

            TSimd.Sum4(s00, s01, s02, s03).Store(scores + token);
        }
    }
}
