using System.Runtime.CompilerServices;

namespace FlashInfer.Cpu;

/// <summary>
/// Sums of the values of a block of tokens, weighted for each query head of one KV head. One load of a row serves every head of a tile, and the tile's sums stay in registers; hence a method for each tile height.
/// </summary>
internal static unsafe class ValueTiles<TSimd, TVector>
    where TSimd : ISimd<TVector>
    where TVector : struct
{
    private const int BlockTokens = CpuScratch.BlockTokens;

    /// <summary>output[head] = output[head] * rescale[head] + the sum over tokens of weights[head * BlockTokens + token] * value[token].</summary>
    /// <param name="weights">Weights.</param>
    /// <param name="rows">The tokens' values.</param>
    /// <param name="tokens">Tokens, 1 to BlockTokens.</param>
    /// <param name="heads">Heads.</param>
    /// <param name="headDim">Elements of a head, a multiple of 4 vectors.</param>
    /// <param name="rescale">A factor for each head.</param>
    /// <param name="output">Running sums, [heads, headDim].</param>
    public static void Accumulate<TElement>(
        float* weights,
        in RowBlock rows,
        int tokens,
        int heads,
        int headDim,
        float* rescale,
        float* output
    )
        where TElement : IElement
    {
        // The first tile has asked for what comes next.
        RowBlock later = rows.WithoutAhead;
        int head = 0;
        if (TSimd.HeadTile == 4)
        {
            for (; head + 4 <= heads; head += 4)
            {
                Accumulate4<TElement>(
                    weights + (head * BlockTokens),
                    head == 0 ? rows : later,
                    tokens,
                    headDim,
                    rescale + head,
                    output + (head * headDim)
                );
            }
        }

        for (; head + 2 <= heads; head += 2)
        {
            Accumulate2<TElement>(
                weights + (head * BlockTokens),
                head == 0 ? rows : later,
                tokens,
                headDim,
                rescale + head,
                output + (head * headDim)
            );
        }

        if (head < heads)
        {
            Accumulate1<TElement>(
                weights + (head * BlockTokens),
                head == 0 ? rows : later,
                tokens,
                headDim,
                rescale + head,
                output + (head * headDim)
            );
        }
    }

    /// <summary>Weighted values of 4 heads, 4 vectors of each head at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate4<TElement>(float* weights, in RowBlock rows, int tokens, int headDim, float* rescale, float* output)
        where TElement : IElement
    {
        for (int d = 0; d < headDim; d += 4 * TSimd.Count)
        {
            float* o = output + d;
            TVector w = TSimd.Create(rescale[0]);
            TVector o00 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o01 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o02 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o03 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));
            o = output + headDim + d;
            w = TSimd.Create(rescale[1]);
            TVector o10 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o11 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o12 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o13 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));
            o = output + (2 * headDim) + d;
            w = TSimd.Create(rescale[2]);
            TVector o20 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o21 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o22 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o23 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));
            o = output + (3 * headDim) + d;
            w = TSimd.Create(rescale[3]);
            TVector o30 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o31 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o32 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o33 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));

            for (int token = 0; token < tokens; token++)
            {
                rows.PrefetchAhead(token, d * TElement.Size, 4 * TSimd.Count * TElement.Size);
                byte* row = rows.Base + rows.Offsets[token] + (d * TElement.Size);
                TVector v0 = TElement.Load<TSimd, TVector>(row);
                TVector v1 = TElement.Load<TSimd, TVector>(row + (TSimd.Count * TElement.Size));
                TVector v2 = TElement.Load<TSimd, TVector>(row + (2 * TSimd.Count * TElement.Size));
                TVector v3 = TElement.Load<TSimd, TVector>(row + (3 * TSimd.Count * TElement.Size));

                w = TSimd.Create(weights[token]);
                o00 = TSimd.MultiplyAdd(w, v0, o00);
                o01 = TSimd.MultiplyAdd(w, v1, o01);
                o02 = TSimd.MultiplyAdd(w, v2, o02);
                o03 = TSimd.MultiplyAdd(w, v3, o03);

                w = TSimd.Create(weights[BlockTokens + token]);
                o10 = TSimd.MultiplyAdd(w, v0, o10);
                o11 = TSimd.MultiplyAdd(w, v1, o11);
                o12 = TSimd.MultiplyAdd(w, v2, o12);
                o13 = TSimd.MultiplyAdd(w, v3, o13);

                w = TSimd.Create(weights[(2 * BlockTokens) + token]);
                o20 = TSimd.MultiplyAdd(w, v0, o20);
                o21 = TSimd.MultiplyAdd(w, v1, o21);
                o22 = TSimd.MultiplyAdd(w, v2, o22);
                o23 = TSimd.MultiplyAdd(w, v3, o23);

                w = TSimd.Create(weights[(3 * BlockTokens) + token]);
                o30 = TSimd.MultiplyAdd(w, v0, o30);
                o31 = TSimd.MultiplyAdd(w, v1, o31);
                o32 = TSimd.MultiplyAdd(w, v2, o32);
                o33 = TSimd.MultiplyAdd(w, v3, o33);
            }

            o = output + d;
            TSimd.Store(o00, o);
            TSimd.Store(o01, o + TSimd.Count);
            TSimd.Store(o02, o + (2 * TSimd.Count));
            TSimd.Store(o03, o + (3 * TSimd.Count));
            o = output + headDim + d;
            TSimd.Store(o10, o);
            TSimd.Store(o11, o + TSimd.Count);
            TSimd.Store(o12, o + (2 * TSimd.Count));
            TSimd.Store(o13, o + (3 * TSimd.Count));
            o = output + (2 * headDim) + d;
            TSimd.Store(o20, o);
            TSimd.Store(o21, o + TSimd.Count);
            TSimd.Store(o22, o + (2 * TSimd.Count));
            TSimd.Store(o23, o + (3 * TSimd.Count));
            o = output + (3 * headDim) + d;
            TSimd.Store(o30, o);
            TSimd.Store(o31, o + TSimd.Count);
            TSimd.Store(o32, o + (2 * TSimd.Count));
            TSimd.Store(o33, o + (3 * TSimd.Count));
        }
    }

    /// <summary>Weighted values of 2 heads, 4 vectors of each head at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate2<TElement>(float* weights, in RowBlock rows, int tokens, int headDim, float* rescale, float* output)
        where TElement : IElement
    {
        for (int d = 0; d < headDim; d += 4 * TSimd.Count)
        {
            float* o = output + d;
            TVector w = TSimd.Create(rescale[0]);
            TVector o00 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o01 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o02 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o03 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));
            o = output + headDim + d;
            w = TSimd.Create(rescale[1]);
            TVector o10 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o11 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o12 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o13 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));

            for (int token = 0; token < tokens; token++)
            {
                rows.PrefetchAhead(token, d * TElement.Size, 4 * TSimd.Count * TElement.Size);
                byte* row = rows.Base + rows.Offsets[token] + (d * TElement.Size);
                TVector v0 = TElement.Load<TSimd, TVector>(row);
                TVector v1 = TElement.Load<TSimd, TVector>(row + (TSimd.Count * TElement.Size));
                TVector v2 = TElement.Load<TSimd, TVector>(row + (2 * TSimd.Count * TElement.Size));
                TVector v3 = TElement.Load<TSimd, TVector>(row + (3 * TSimd.Count * TElement.Size));

                w = TSimd.Create(weights[token]);
                o00 = TSimd.MultiplyAdd(w, v0, o00);
                o01 = TSimd.MultiplyAdd(w, v1, o01);
                o02 = TSimd.MultiplyAdd(w, v2, o02);
                o03 = TSimd.MultiplyAdd(w, v3, o03);

                w = TSimd.Create(weights[BlockTokens + token]);
                o10 = TSimd.MultiplyAdd(w, v0, o10);
                o11 = TSimd.MultiplyAdd(w, v1, o11);
                o12 = TSimd.MultiplyAdd(w, v2, o12);
                o13 = TSimd.MultiplyAdd(w, v3, o13);
            }

            o = output + d;
            TSimd.Store(o00, o);
            TSimd.Store(o01, o + TSimd.Count);
            TSimd.Store(o02, o + (2 * TSimd.Count));
            TSimd.Store(o03, o + (3 * TSimd.Count));
            o = output + headDim + d;
            TSimd.Store(o10, o);
            TSimd.Store(o11, o + TSimd.Count);
            TSimd.Store(o12, o + (2 * TSimd.Count));
            TSimd.Store(o13, o + (3 * TSimd.Count));
        }
    }

    /// <summary>Weighted values of 1 head, 4 vectors of each head at a time.</summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private static void Accumulate1<TElement>(float* weights, in RowBlock rows, int tokens, int headDim, float* rescale, float* output)
        where TElement : IElement
    {
        for (int d = 0; d < headDim; d += 4 * TSimd.Count)
        {
            float* o = output + d;
            TVector w = TSimd.Create(rescale[0]);
            TVector o00 = TSimd.Multiply(w, TSimd.Load(o));
            TVector o01 = TSimd.Multiply(w, TSimd.Load(o + TSimd.Count));
            TVector o02 = TSimd.Multiply(w, TSimd.Load(o + (2 * TSimd.Count)));
            TVector o03 = TSimd.Multiply(w, TSimd.Load(o + (3 * TSimd.Count)));

            for (int token = 0; token < tokens; token++)
            {
                rows.PrefetchAhead(token, d * TElement.Size, 4 * TSimd.Count * TElement.Size);
                byte* row = rows.Base + rows.Offsets[token] + (d * TElement.Size);
                TVector v0 = TElement.Load<TSimd, TVector>(row);
                TVector v1 = TElement.Load<TSimd, TVector>(row + (TSimd.Count * TElement.Size));
                TVector v2 = TElement.Load<TSimd, TVector>(row + (2 * TSimd.Count * TElement.Size));
                TVector v3 = TElement.Load<TSimd, TVector>(row + (3 * TSimd.Count * TElement.Size));

                w = TSimd.Create(weights[token]);
                o00 = TSimd.MultiplyAdd(w, v0, o00);
                o01 = TSimd.MultiplyAdd(w, v1, o01);
                o02 = TSimd.MultiplyAdd(w, v2, o02);
                o03 = TSimd.MultiplyAdd(w, v3, o03);
            }

            o = output + d;
            TSimd.Store(o00, o);
            TSimd.Store(o01, o + TSimd.Count);
            TSimd.Store(o02, o + (2 * TSimd.Count));
            TSimd.Store(o03, o + (3 * TSimd.Count));
        }
    }
}
