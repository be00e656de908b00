using System;
using System.Collections.Generic;
using System.Linq;
using System.Threading.Tasks;
using FlashInfer;

namespace Serving;

/// <summary>
/// Long prompts in chunks between decode steps, so that nobody waits long. Here through the decode wrapper, eight tokens at a time, and for a
/// stored prompt through the cache alone.
/// </summary>
public sealed class ChunkedPrefill(Device device, IModel model, Attention.PagedKvCache cache) : IAsyncDisposable
{
    private const int Chunk = 8;

    private readonly Attention.BatchDecodeWithPagedKvCache _prefill = new(cache, maxSequences: 16, maxQueryTokens: Chunk);
    private readonly Attention.BatchDecodeWithPagedKvCache _decode = new(cache, maxSequences: 256);
    private StepTensors _tensors = new(device, 256);

    public async Task RunAsync(List<Request> requests)
    {
        await Attention.WarmupAsync(device);
        while (requests.Exists(static request => !request.IsFinished))
        {
            Request[] prefills = [.. requests.Where(static request => !request.IsPrefilled).Take(16)];
            Sequence[] prefilling = [.. prefills.Select(static request => request.Sequence)];
            int[] chunks = [.. prefills.Select(static request => Math.Min(Chunk, request.Prompt.Length - request.Prefilled))];
            Sequence[] decoding =
            [
                .. requests.Where(static request => request.IsPrefilled && !request.IsFinished).Select(static request => request.Sequence),
            ];
            int rows = chunks.Sum() + decoding.Length;
            if (rows > _tensors.Query.Tokens)
            {
                _tensors.Dispose();
                _tensors = new StepTensors(device, rows);
            }

            if (prefilling.Length > 0)
            {
                cache.BeginForward(prefilling, chunks);
                _prefill.Plan(prefilling, chunks);
            }

            if (decoding.Length > 0)
            {
                cache.BeginForward(decoding, tokens: 1);
                _decode.Plan(decoding);
            }

            for (int layer = 0; layer < model.Layers; layer++)
            {
                model.Project(layer, _tensors.Query, _tensors.Key, _tensors.Value);
                if (prefilling.Length > 0)
                {
                    _prefill.Append(layer, _tensors.KeyRows(chunks.Sum()), _tensors.ValueRows(chunks.Sum()));
                    _prefill.Run(layer, _tensors.QueryRows(chunks.Sum()), _tensors.OutputRows(chunks.Sum()));
                }

                if (decoding.Length > 0)
                {
                    _decode.Append(layer, _tensors.KeyRows(decoding.Length), _tensors.ValueRows(decoding.Length));
                    _decode.Run(layer, _tensors.QueryRows(decoding.Length), _tensors.OutputRows(decoding.Length));
                }

                model.Absorb(layer, _tensors.Output);
            }

            if (prefilling.Length > 0)
            {
                cache.EndForward(prefilling);
            }

            if (decoding.Length > 0)
            {
                cache.EndForward(decoding);
            }

            for (int i = 0; i < prefills.Length; i++)
            {
                prefills[i].Prefilled += chunks[i];
            }

            await Task.Yield();
        }
    }

    /// <summary>Keys and values of a prompt that was computed elsewhere, chunk by chunk, into a sequence that the caller gets.</summary>
    public Sequence Load(ReadOnlySpan<BFloat16> keys, ReadOnlySpan<BFloat16> values, int tokens)
    {
        Sequence sequence = cache.NewSequence();
        int row = Attention.KvHeads * Attention.HeadDim;
        for (int start = 0; start < tokens; start += 256)
        {
            int count = Math.Min(256, tokens - start);
            if (!cache.TryBeginForward(sequence, count))
            {
                cache.Free(sequence);
                throw new InvalidOperationException("The prompt does not fit.");
            }

            for (int layer = 0; layer < cache.Layers; layer++)
            {
                _tensors.KeyRows(count).CopyFrom(keys.Slice(start * row, count * row));
                _tensors.ValueRows(count).CopyFrom(values.Slice(start * row, count * row));
                cache.Append(layer, sequence, _tensors.KeyRows(count), _tensors.ValueRows(count));
            }

            cache.EndForward(sequence);
        }

        return sequence;
    }

    /// <summary>Two halves of a context attended to apart, and merged on the host by their log-sum-exps.</summary>
    public float[] Merge(Attention.Lse2 left, Attention.Lse2 right, BFloat16[] leftOutput, BFloat16[] rightOutput)
    {
        float[] a = left.ToArray();
        float[] b = right.ToArray();
        float[] merged = new float[leftOutput.Length];
        for (int head = 0; head < a.Length; head++)
        {
            float max = Math.Max(a[head], b[head]);
            float leftWeight = float.Exp2(a[head] - max);
            float rightWeight = MathF.Pow(2, b[head] - max);
            for (int i = 0; i < Attention.HeadDim; i++)
            {
                int at = (head * Attention.HeadDim) + i;
                merged[at] = ((leftWeight * leftOutput[at]) + (rightWeight * rightOutput[at])) / (leftWeight + rightWeight);
            }
        }

        return merged;
    }

    public ValueTask DisposeAsync()
    {
        _prefill.Dispose();
        _decode.Dispose();
        _tensors.Dispose();
        return ValueTask.CompletedTask;
    }
}
