using System;
using System.Collections.Generic;
using FlashInfer;

namespace Serving;

/// <summary>A small model drafts tokens, the large one checks them all at once, and what it refuses is rolled back in both caches.</summary>
public sealed class SpeculativeDecoding : IDisposable
{
    private const int Drafted = 4;

    private readonly Device _device;
    private readonly Attention.PagedKvCache _cache;
    private readonly Attention.BatchDecodeWithPagedKvCache _verify;
    private readonly Attention.BatchDecodeWithPagedKvCache _single;
    private readonly DraftAttention.PagedKvCache _draftCache;
    private readonly DraftAttention.BatchDecodeWithPagedKvCache _draft;
    private readonly DraftAttention.Query _draftQuery;
    private readonly DraftAttention.Key _draftKey;
    private readonly DraftAttention.Value _draftValue;
    private readonly DraftAttention.Output _draftOutput;

    public SpeculativeDecoding(Device device, int pages)
    {
        _device = device;
        _cache = new(device, layers: 32, pages);
        _verify = new(_cache, maxSequences: 64, maxQueryTokens: Drafted);
        _single = new(_cache, maxSequences: 64);
        _draftCache = new(device, layers: 4, pages);
        _draft = new(_draftCache, maxSequences: 64);
        _draftQuery = DraftAttention.AllocateQuery(device, 1);
        _draftKey = DraftAttention.AllocateKey(device, 1);
        _draftValue = DraftAttention.AllocateValue(device, 1);
        _draftOutput = DraftAttention.AllocateOutput(device, 1);
    }

    public int Step(Sequence sequence, Sequence draft, Func<int, bool> accepts, Func<float[], float[], float> ratio)
    {
        using Attention.Query query = Attention.AllocateQuery(_device, Drafted);
        using Attention.Key key = Attention.AllocateKey(_device, Drafted);
        using Attention.Value value = Attention.AllocateValue(_device, Drafted);
        using Attention.Output output = Attention.AllocateOutput(_device, Drafted);
        using Attention.Lse2 lse = Attention.AllocateLse2(_device, Drafted);

        // Each drafted token is a step of the small model.
        for (int token = 0; token < Drafted; token++)
        {
            _draftCache.BeginForward(draft, tokens: 1);
            _draft.Plan([draft]);
            for (int layer = 0; layer < _draftCache.Layers; layer++)
            {
                _draft.Append(layer, _draftKey, _draftValue);
                _draft.Run(layer, _draftQuery, _draftOutput);
            }

            _draftCache.EndForward(draft);
        }

        _cache.BeginForward(sequence, Drafted);
        _verify.Plan([sequence], [Drafted]);
        for (int layer = 0; layer < _cache.Layers; layer++)
        {
            _verify.Append(layer, key, value);
            _verify.Run(layer, query, output, lse);
        }

        int accepted = 0;
        while (accepted < Drafted && accepts(accepted))
        {
            accepted++;
        }

        _cache.EndForward(sequence, accepted);

        // The draft's cache has no forward open: its surplus goes with the sequence.
        float[] confidence = lse.ToArray();
        float best = float.NegativeInfinity;
        foreach (float one in confidence)
        {
            best = MathF.Max(best, one);
        }

        float sum = 0;
        for (int i = 0; i < confidence.Length; i++)
        {
            sum += float.Exp2(confidence[i] - best);
        }

        return ratio(confidence, lse.ToNaturalLog()) > sum ? accepted : 0;
    }

    /// <summary>A batch whose drafts have different lengths; one without a draft decodes as usual.</summary>
    public void StepBatch(Sequence[] batch, int[] drafted, int[] accepted, StepTensors tensors)
    {
        bool anyDraft = Array.Exists(drafted, static tokens => tokens > 1);
        _cache.BeginForward(batch, drafted);
        Attention.BatchDecodeWithPagedKvCache wrapper = anyDraft ? _verify : _single;
        if (anyDraft)
        {
            _verify.Plan(batch, drafted);
        }
        else
        {
            _single.Plan(batch);
        }

        for (int layer = 0; layer < _cache.Layers; layer++)
        {
            wrapper.Append(layer, tensors.Key, tensors.Value);
            wrapper.Run(layer, tensors.Query, tensors.Output);
        }

        if (anyDraft)
        {
            _cache.EndForward(batch, accepted);
        }
        else
        {
            _cache.EndForward(batch);
        }
    }

    /// <summary>Beams: all but the best are given up.</summary>
    public void Prune(List<(Sequence Sequence, float Score)> beams, int keep)
    {
        beams.Sort(static (left, right) => right.Score.CompareTo(left.Score));
        for (int i = keep; i < beams.Count; i++)
        {
            _cache.Free(beams[i].Sequence);
        }

        beams.RemoveRange(keep, beams.Count - keep);
    }

    public void Dispose()
    {
        foreach (IDisposable part in new IDisposable[] { _verify, _single, _cache, _draft, _draftCache })
        {
            part.Dispose();
        }

        _draftQuery.Dispose();
        _draftKey.Dispose();
        _draftValue.Dispose();
        _draftOutput.Dispose();
    }
}
