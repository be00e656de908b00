using System;
using System.Collections.Generic;
using System.Linq;
using System.Runtime.InteropServices;
using System.Threading;
using FlashInfer;

namespace Serving;

/// <summary>Requests join and leave between steps; a step decodes all that are ready, and one that finds no page preempts another.</summary>
public sealed class ContinuousBatching : IDisposable
{
    private readonly IModel _model;
    private readonly Attention.PagedKvCache _cache;
    private readonly Attention.BatchDecodeWithPagedKvCache _decode;
    private readonly StepTensors _tensors;
    private readonly Queue<Request> _waiting = new();
    private readonly List<Request> _running = [];
    private Sequence[] _batch = [];

    public ContinuousBatching(Device device, IModel model, int pages, int maxBatch)
    {
        _model = model;
        _cache = new Attention.PagedKvCache(device, model.Layers, pages);
        _decode = new Attention.BatchDecodeWithPagedKvCache(_cache, maxBatch);
        _tensors = new StepTensors(device, maxBatch);
        MaxBatch = maxBatch;
    }

    public int MaxBatch { get; }

    public void Submit(int[] prompt, int maxTokens) => _waiting.Enqueue(new Request(_cache.NewSequence(), prompt, maxTokens));

    public void Serve(CancellationToken cancellationToken)
    {
        while (!cancellationToken.IsCancellationRequested && (_waiting.Count > 0 || _running.Count > 0))
        {
            Admit();
            if (_running.Count == 0)
            {
                continue;
            }

            Step();
            foreach (Request request in _running.Where(static r => r.IsFinished).ToList())
            {
                _cache.Free(request.Sequence);
                _running.Remove(request);
            }
        }

        _cache.Free([.. _running.Select(static request => request.Sequence)]);
    }

    /// <summary>The same, but a request that is cancelled in the middle of a step takes its token back.</summary>
    public bool TryStep(Request request, CancellationToken cancellationToken)
    {
        Sequence sequence = request.Sequence;
        if (!_cache.TryBeginForward(sequence, tokens: 1))
        {
            return false;
        }

        _decode.Plan([sequence]);
        for (int layer = 0; layer < _model.Layers; layer++)
        {
            if (cancellationToken.IsCancellationRequested)
            {
                _cache.AbandonForward(sequence);
                return false;
            }

            Layer(layer, rows: 1);
        }

        _cache.EndForward(sequence);
        return true;
    }

    public void Dispose()
    {
        _decode.Dispose();
        _cache.Dispose();
        _tensors.Dispose();
    }

    private void Admit()
    {
        while (_running.Count < MaxBatch && _waiting.TryPeek(out Request? next))
        {
            if (!_cache.TryBeginForward(next.Sequence, next.Prompt.Length))
            {
                break;
            }

            _cache.EndForward(next.Sequence);
            next.Prefilled = next.Prompt.Length;
            _running.Add(_waiting.Dequeue());
        }
    }

    private void Step()
    {
        Fill();
        while (!_cache.TryBeginForward(_batch, tokens: 1))
        {
            Preempt();
            if (_running.Count == 0)
            {
                return;
            }

            Fill();
        }

        try
        {
            _decode.Plan(_batch);
            for (int layer = 0; layer < _model.Layers; layer++)
            {
                Layer(layer, _batch.Length);
            }
        }
        catch
        {
            _cache.AbandonForward(_batch);
            throw;
        }

        _cache.EndForward(_batch);
        for (int row = 0; row < _running.Count; row++)
        {
            _running[row].Generated++;
            _ = _model.Sample(row);
        }
    }

    private void Layer(int layer, int rows)
    {
        _model.Project(layer, _tensors.QueryRows(rows), _tensors.KeyRows(rows), _tensors.ValueRows(rows));
        _decode.Append(layer, _tensors.KeyRows(rows), _tensors.ValueRows(rows));
        _decode.Run(layer, _tensors.QueryRows(rows), _tensors.OutputRows(rows));
        _model.Absorb(layer, _tensors.OutputRows(rows));
    }

    private void Fill() => _batch = [.. _running.Select(static request => request.Sequence)];

    // The youngest goes back to the queue, without its pages.
    private void Preempt()
    {
        Request youngest = _running[^1];
        _running.RemoveAt(_running.Count - 1);
        _cache.Free(youngest.Sequence);
        _waiting.Enqueue(new Request(_cache.NewSequence(), youngest.Prompt, youngest.Prompt.Length));
    }

    /// <summary>As <see cref="Step"/> over a list, without a copy of it.</summary>
    public void StepOver(List<Sequence> sequences)
    {
        Span<Sequence> batch = CollectionsMarshal.AsSpan(sequences);
        _cache.BeginForward(batch, tokens: 1);
        _decode.Plan(batch);
        for (int layer = 0; layer < _cache.Layers; layer++)
        {
            Layer(layer, batch.Length);
        }

        _cache.EndForward(batch);
    }
}
