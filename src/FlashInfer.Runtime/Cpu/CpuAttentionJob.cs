using System.Runtime.CompilerServices;
using FlashInfer.Attention;

namespace FlashInfer.Cpu;

/// <summary>
/// Attention, of decode and prefill alike: a unit is one item of the list for one KV head, so the heads of one group for each of the item's
/// query tokens. Column t * group + h is query token t and head h of the group.
/// </summary>
internal sealed unsafe class CpuAttentionJob<TSimd, TVector, TElement, TKvElement>(AttentionSpec spec, CpuScratch scratch) : CpuJob
    where TSimd : ISimd<TVector>
    where TVector : struct
    where TElement : IQueryElement
    where TKvElement : IElement
{
    private const float Log2E = 1.44269504f;

    private readonly int _group = spec.GroupSize;
    private readonly int _heads = spec.Heads;
    private readonly int _headDim = spec.HeadDim;
    private readonly int _valueDim = spec.ValueDim;
    private readonly int _pageSize = spec.PageSize;

    public override void Execute(nint args, int unit, int worker)
    {
        ref readonly CpuAttentionArgs a = ref *(CpuAttentionArgs*)args;
        ref readonly PrefillParams p = ref a.Params;
        ListHeader* header = (ListHeader*)p.Plan;
        (int index, int unitOfItem) = Math.DivRem(unit, a.UnitsPerItem);
        ref readonly WorkItem item = ref ((WorkItem*)(header + 1))[index];
        int kvHead = item.Head + unitOfItem;
        int columns = item.QueryTokens * _group;
        ref readonly WorkerScratch s = ref scratch[worker];

        UnitVariant variant = new(spec.Variant, p.Variant, index, kvHead, _group);

        LoadQuery(p, item, kvHead, variant, variant.ReplacesLogits ? header->ScaleLog2 / Log2E : header->ScaleLog2, s.Query);
        new Span<float>(s.Output, columns * _valueDim).Clear();
        new Span<float>(s.Max, columns).Fill(float.NegativeInfinity);
        new Span<float>(s.Sum, columns).Clear();
        Attend(p, item, kvHead, variant, s);

        if (item.Parts == 1)
        {
            WriteOutput(p, item, kvHead, variant, s);
            return;
        }

        // A slot has room for the columns of each unit of an item.
        long first = ((long)item.PartOffset * a.UnitsPerItem) + unitOfItem;
        WritePartial(p, (first + (item.Part * a.UnitsPerItem)) * scratch.Columns, columns, s);
        ref int arrived = ref ((int*)p.Counters)[first];

        // The increment is a full fence: this part is visible before it counts, and who arrives last sees all parts.
        if (Interlocked.Increment(ref arrived) == item.Parts)
        {
            arrived = 0;
            Merge(p, item.Parts, first * scratch.Columns, (long)a.UnitsPerItem * scratch.Columns, columns, s);
            WriteOutput(p, item, kvHead, variant, s);
        }
    }

    private void LoadQuery(in PrefillParams p, in WorkItem item, int kvHead, in UnitVariant variant, float scale, float* query)
    {
        TVector factor = TSimd.Create(scale * Scale(p.KeyScales, kvHead));
        byte* rounded = stackalloc byte[variant.TransformsQuery ? _headDim * TElement.Size : 0];
        for (int column = 0; column < item.QueryTokens * _group; column++, query += _headDim)
        {
            (int token, int head) = Math.DivRem(column, _group);
            long offset = ((item.Row + token) * p.QueryRowStride) + (((kvHead * _group) + head) * p.QueryHeadStride);
            TElement.Widen((byte*)p.Query + (offset * TElement.Size), query, _headDim);
            if (variant.TransformsQuery)
            {
                variant.TransformQuery(new Span<float>(query, _headDim), item.Row + token, (kvHead * _group) + head);
                TElement.Narrow(query, rounded, _headDim);
                TElement.Widen(rounded, query, _headDim);
            }

            for (int d = 0; d < _headDim; d += TSimd.Count)
            {
                TSimd.Store(TSimd.Multiply(TSimd.Load(query + d), factor), query + d);
            }

            if (variant.Rotates)
            {
                RotaryRows<TSimd, TVector>.Turn(query, 1, _headDim, variant.Rotation, variant.Position(item.Row + token));
            }
        }
    }

    private void Attend(in PrefillParams p, in WorkItem item, int kvHead, in UnitVariant variant, in WorkerScratch s)
    {
        byte* keys = (byte*)p.Key + (kvHead * p.KeyHeadStride * TKvElement.Size);
        byte* values = (byte*)p.Value + (kvHead * p.ValueHeadStride * TKvElement.Size);
        int* pages = (int*)p.Pages;
        nint* offsets = s.KeyOffsets;
        nint* next = s.NextKeyOffsets;
        int tokens = Math.Min(CpuScratch.BlockTokens, item.VisibleEnd - item.Begin);
        FindRows(pages, item, item.Begin, tokens, p.KeyPageStride, p.KeyTokenStride, offsets);
        for (int begin = item.Begin; tokens > 0; begin += CpuScratch.BlockTokens)
        {
            int after = Math.Min(CpuScratch.BlockTokens, item.VisibleEnd - begin - CpuScratch.BlockTokens);
            FindRows(pages, item, begin, tokens, p.ValuePageStride, p.ValueTokenStride, s.ValueOffsets);
            FindRows(pages, item, begin + CpuScratch.BlockTokens, after, p.KeyPageStride, p.KeyTokenStride, next);
            Block(
                item,
                begin,
                tokens,
                new RowBlock(keys, offsets, values, s.ValueOffsets),
                new RowBlock(values, s.ValueOffsets, keys, after > 0 ? next : null),
                variant,
                s
            );
            nint* done = offsets;
            offsets = next;
            next = done;
            tokens = after;
        }
    }

    private void Block(
        in WorkItem item,
        int begin,
        int tokens,
        in RowBlock keys,
        in RowBlock values,
        in UnitVariant variant,
        in WorkerScratch s
    )
    {
        int columns = item.QueryTokens * _group;
        if ((columns - 1) / TSimd.HeadTile < TKvElement.TilesOnTheFly && !variant.Rotates)
        {
            ScoreTiles<TSimd, TVector>.Score<TKvElement>(s.Query, keys, tokens, columns, _headDim, s.Scores);
            Softmax(item, begin, tokens, variant, s);
            ValueTiles<TSimd, TVector>.Accumulate<TKvElement>(s.Scores, values, tokens, columns, _valueDim, s.Rescale, s.Output);
            return;
        }

        RowBlock wide = new((byte*)s.Wide, s.WideOffsets, null, null);
        WidenRows(keys, (tokens + 3) & ~3, _headDim, s);
        if (variant.Rotates)
        {
            RotaryRows<TSimd, TVector>.Turn(s.Wide, tokens, _headDim, variant.Rotation, begin);
        }

        ScoreTiles<TSimd, TVector>.Score<SingleElement>(s.Query, wide, tokens, columns, _headDim, s.Scores);
        Softmax(item, begin, tokens, variant, s);
        WidenRows(values, tokens, _valueDim, s);
        ValueTiles<TSimd, TVector>.Accumulate<SingleElement>(s.Scores, wide, tokens, columns, _valueDim, s.Rescale, s.Output);
    }

    /// <summary>
    /// Bytes to the rows of a block, for one head. The last row stands in for those missing: scores are made 4 tokens at a time, and what
    /// lies behind the last token must not be read.
    /// </summary>
    /// <param name="pages">The page table; null when rows lie one after another.</param>
    /// <param name="item">Whose rows.</param>
    /// <param name="begin">The first token.</param>
    /// <param name="tokens">Tokens, up to BlockTokens; nothing is written when there are none.</param>
    /// <param name="pageStride">Elements between two pages.</param>
    /// <param name="tokenStride">Elements between two tokens.</param>
    /// <param name="offsets">Output, BlockTokens of them.</param>
    private void FindRows(int* pages, in WorkItem item, int begin, int tokens, long pageStride, long tokenStride, nint* offsets)
    {
        if (tokens <= 0)
        {
            return;
        }

        long tokenBytes = tokenStride * TKvElement.Size;
        int token = 0;
        if (pages == null)
        {
            for (long offset = ((long)item.KvStart + begin) * tokenBytes; token < tokens; token++, offset += tokenBytes)
            {
                offsets[token] = (nint)offset;
            }
        }
        else
        {
            int* page = pages + item.KvStart + (begin / _pageSize);
            for (int slot = begin % _pageSize; token < tokens; page++, slot = 0)
            {
                long offset = (*page * pageStride * TKvElement.Size) + (slot * tokenBytes);
                for (int end = Math.Min(tokens, token + _pageSize - slot); token < end; token++, offset += tokenBytes)
                {
                    offsets[token] = (nint)offset;
                }
            }
        }

        new Span<nint>(offsets + token, CpuScratch.BlockTokens - token).Fill(offsets[token - 1]);
    }

    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void WidenRows(in RowBlock rows, int tokens, int dim, in WorkerScratch s)
    {
        for (int token = 0; token < tokens; token++)
        {
            byte* row = rows.Base + rows.Offsets[token];
            if ((token & 3) == 0)
            {
                rows.PrefetchAhead(token, dim * TKvElement.Size);
            }

            float* wide = (float*)((byte*)s.Wide + s.WideOffsets[token]);
            for (int d = 0; d < dim; d += TSimd.Count)
            {
                TSimd.Store(TKvElement.Load<TSimd, TVector>(row + (d * TKvElement.Size)), wide + d);
            }
        }
    }

    /// <summary>
    /// Turns a block's scores into weights, 0 for the tokens that a query token does not see, and updates maximum and sum; Rescale gets
    /// what earlier sums are to be multiplied with.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveOptimization)]
    private void Softmax(in WorkItem item, int begin, int tokens, in UnitVariant variant, in WorkerScratch s)
    {
        int padded = (tokens + TSimd.Count - 1) & -TSimd.Count;
        for (int column = 0; column < item.QueryTokens * _group; column++)
        {
            float* scores = s.Scores + (column * CpuScratch.BlockTokens);
            (int queryToken, int head) = Math.DivRem(column, _group);
            int seen = Math.Clamp(item.Visible + queryToken - begin, 0, tokens);
            if (variant.TouchesLogits)
            {
                variant.Apply(new Span<float>(scores, seen), begin, item.Row + queryToken, head);
            }

            for (int token = seen; token < padded; token++)
            {
                scores[token] = float.NegativeInfinity;
            }

            if (variant.ReplacesLogits)
            {
                TVector log2E = TSimd.Create(Log2E);
                for (int token = 0; token < padded; token += TSimd.Count)
                {
                    TSimd.Store(TSimd.Multiply(TSimd.Load(scores + token), log2E), scores + token);
                }
            }

            float before = s.Max[column];
            TVector largest = TSimd.Create(before);
            for (int token = 0; token < padded; token += TSimd.Count)
            {
                largest = TSimd.Max(largest, TSimd.Load(scores + token));
            }

            float max = TSimd.MaxLane(largest);

            // With every score -inf there is nothing to subtract: -inf - -inf would be NaN. All weights become 0.
            float origin = float.IsNegativeInfinity(max) ? 0f : max;
            TVector subtracted = TSimd.Create(origin);
            TVector sum = TSimd.Create(0f);
            for (int token = 0; token < padded; token += TSimd.Count)
            {
                TVector weight = Exp2(TSimd.Subtract(TSimd.Load(scores + token), subtracted));
                TSimd.Store(weight, scores + token);
                sum = TSimd.Add(sum, weight);
            }

            float rescale = before == max ? 1f : Exp2(before - origin);
            s.Max[column] = max;
            s.Sum[column] = (s.Sum[column] * rescale) + TSimd.Sum(sum);
            s.Rescale[column] = rescale;
        }
    }

    private void WriteOutput(in PrefillParams p, in WorkItem item, int kvHead, in UnitVariant variant, in WorkerScratch s)
    {
        for (int column = 0; column < item.QueryTokens * _group; column++)
        {
            (int token, int head) = Math.DivRem(column, _group);
            int queryHead = (kvHead * _group) + head;
            float max = s.Max[column];
            float sum = s.Sum[column];
            float scale = Scale(p.ValueScales, kvHead);
            if (variant.HasSink)
            {
                Join(variant.Sink(queryHead) * Log2E, ref max, ref sum, ref scale);
            }

            // No token, or every score -inf: the output is 0 and the LSE is -inf, for log2(0) = -inf.
            TVector factor = TSimd.Create(sum == 0f ? 0f : scale / sum);
            float* from = s.Output + (column * _valueDim);
            for (int d = 0; d < _valueDim; d += TSimd.Count)
            {
                TSimd.Store(TSimd.Multiply(TSimd.Load(from + d), factor), from + d);
            }

            float lse2 = sum == 0f ? float.NegativeInfinity : max + MathF.Log2(sum);
            if (variant.TransformsOutput)
            {
                variant.TransformOutput(new Span<float>(from, _valueDim), item.Row + token, queryHead, lse2);
            }

            long row = item.Row + token;
            long offset = (row * p.OutputRowStride) + (queryHead * p.OutputHeadStride);
            TElement.Narrow(from, (byte*)p.Output + (offset * TElement.Size), _valueDim);
            if (p.Lse != 0)
            {
                ((float*)p.Lse)[(row * _heads) + queryHead] = lse2;
            }
        }
    }

    /// <summary>Lets a logit without a value into a softmax, once, after all parts.</summary>
    private static void Join(float sink, ref float max, ref float sum, ref float scale)
    {
        float before = max;
        max = MathF.Max(max, sink);
        if (!float.IsNegativeInfinity(max))
        {
            float rescale = Exp2(before - max);
            scale *= rescale;
            sum = (sum * rescale) + Exp2(sink - max);
        }
    }

    private void WritePartial(in PrefillParams p, long first, int columns, in WorkerScratch s)
    {
        new ReadOnlySpan<float>(s.Output, columns * _valueDim).CopyTo(
            new Span<float>((float*)p.PartialOutput + (first * _valueDim), columns * _valueDim)
        );
        float* state = (float*)p.PartialState + (2 * first);
        for (int column = 0; column < columns; column++)
        {
            state[2 * column] = s.Max[column];
            state[(2 * column) + 1] = s.Sum[column];
        }
    }

    /// <summary>Adds up all parts in their order, whoever arrived last, so that the bits do not depend on timing.</summary>
    /// <param name="p">Arguments.</param>
    /// <param name="parts">Parts.</param>
    /// <param name="first">Where the first part's columns begin in the workspace.</param>
    /// <param name="step">Columns between two parts.</param>
    /// <param name="columns">Columns.</param>
    /// <param name="s">Receives maxima, sums and outputs.</param>
    private void Merge(in PrefillParams p, int parts, long first, long step, int columns, in WorkerScratch s)
    {
        for (int column = 0; column < columns; column++, first++)
        {
            float* state = (float*)p.PartialState + (2 * first);
            float max = float.NegativeInfinity;
            for (int part = 0; part < parts; part++)
            {
                max = MathF.Max(max, state[2 * part * step]);
            }

            float origin = float.IsNegativeInfinity(max) ? 0f : max;
            float sum = 0f;
            float* output = s.Output + (column * _valueDim);
            new Span<float>(output, _valueDim).Clear();
            for (int part = 0; part < parts; part++)
            {
                float weight = Exp2(state[2 * part * step] - origin);
                sum += state[(2 * part * step) + 1] * weight;
                TVector factor = TSimd.Create(weight);
                float* from = (float*)p.PartialOutput + ((first + (part * step)) * _valueDim);
                for (int d = 0; d < _valueDim; d += TSimd.Count)
                {
                    TSimd.Store(TSimd.MultiplyAdd(factor, TSimd.Load(from + d), TSimd.Load(output + d)), output + d);
                }
            }

            s.Max[column] = max;
            s.Sum[column] = sum;
        }
    }

    /// <summary>What stored keys or values of one head are multiplied by.</summary>
    private static float Scale(nint scales, int kvHead) => scales == 0 ? 1f : ((float*)scales)[kvHead];

    private static float Exp2(float x) => TSimd.MaxLane(Exp2(TSimd.Create(x)));

    /// <summary>
    /// 2^x for x up to 0, to 1 unit or two in the last place; 0 below -126. Adding 1.5 * 2^23 rounds x to an integer n that then stands in
    /// the sum's low bits; 2^(x - n), a Taylor series on [-0.5, 0.5], gets n added to its exponent.
    /// </summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    private static TVector Exp2(TVector x)
    {
        TVector magic = TSimd.Create(12582912f);
        TVector rounded = TSimd.Add(x, magic);
        TVector f = TSimd.Subtract(x, TSimd.Subtract(rounded, magic));

        // ln(2)^k / k!
        TVector power = TSimd.Create(1.5252734e-5f);
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(1.5403530e-4f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(1.3333558e-3f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(9.6181291e-3f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(5.5504109e-2f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(2.4022651e-1f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(6.9314718e-1f));
        power = TSimd.MultiplyAdd(power, f, TSimd.Create(1f));
        return TSimd.ZeroWhereBelow(x, -126f, TSimd.AddToExponent(power, rounded));
    }
}

/// <summary>What a <see cref="CpuAttentionJob{TSimd, TVector, TElement, TKvElement}"/> is given.</summary>
internal struct CpuAttentionArgs
{
    /// <summary>Arguments as of prefill; its queue and tensor maps are not used.</summary>
    public PrefillParams Params;

    /// <summary>Units that an item of the list expands to: KV heads, from its <see cref="WorkItem.Head"/> on.</summary>
    public int UnitsPerItem;
}
