using System;
using System.Collections.Generic;
using FlashInfer;
using FlashInfer.Cuda;

namespace Serving;

/// <summary>Decode steps as CUDA graphs, one for each size of batch; on a device without streams the same calls without a graph.</summary>
public sealed class GraphDecoding : IDisposable
{
    private readonly Device _device;
    private readonly IModel _model;
    private readonly Attention.PagedKvCache _cache;
    private readonly Attention.BatchDecodeWithPagedKvCache _decode;
    private readonly StepTensors _tensors;
    private readonly Dictionary<int, CudaGraph> _graphs = [];
    private readonly BFloat16[] _host;

    public GraphDecoding(Device device, IModel model, int pages, int maxBatch)
    {
        _device = device;
        _model = model;
        _cache = new Attention.PagedKvCache(device, model.Layers, pages);
        _decode = new Attention.BatchDecodeWithPagedKvCache(_cache, maxBatch);
        _tensors = new StepTensors(device, maxBatch);
        _host = new BFloat16[maxBatch * Attention.Heads * Attention.HeadDim];
    }

    public ReadOnlySpan<BFloat16> Step(Sequence[] batch, int[] ones)
    {
        _cache.BeginForward(batch, ones);
        _decode.Plan(batch);
        if (_device.Stream is { } stream)
        {
            if (!_graphs.TryGetValue(batch.Length, out CudaGraph? graph))
            {
                graph = Capture(stream, batch.Length);
                _graphs.Add(batch.Length, graph);
            }

            graph.Launch(stream);
        }
        else
        {
            Layers(batch.Length, null);
        }

        _cache.EndForward(batch);
        _tensors.Output.CopyTo(_host);
        return _host;
    }

    /// <summary>A stream of its own for the step, so that the device's own can go on with something else.</summary>
    public BFloat16[] StepBeside(Sequence[] batch, int[] ones, BFloat16[] queries)
    {
        using CudaStream side = new(_device.Cuda!);
        using CudaEvent ready = new(_device.Cuda!);
        using CudaEvent done = new(_device.Cuda!);
        _tensors.Query.CopyFrom(queries);
        ready.Record(_device.Stream!);
        side.Wait(ready);
        _cache.BeginForward(batch, ones);
        _decode.Plan(batch, stream: side);
        side.BeginCapture();
        Layers(batch.Length, side);
        using CudaGraph graph = side.EndCapture();
        graph.Launch(side);
        done.Record(side);
        _device.Stream!.Wait(done);
        _cache.EndForward(batch);
        return _tensors.Output.ToArray();
    }

    public void Dispose()
    {
        foreach (CudaGraph graph in _graphs.Values)
        {
            graph.Dispose();
        }

        _decode.Dispose();
        _cache.Dispose();
        _tensors.Dispose();
    }

    private CudaGraph Capture(CudaStream stream, int rows)
    {
        stream.BeginCapture();
        try
        {
            Layers(rows, stream);
        }
        catch
        {
            stream.EndCapture().Dispose();
            throw;
        }

        return stream.EndCapture();
    }

    private void Layers(int rows, CudaStream? stream)
    {
        for (int layer = 0; layer < _model.Layers; layer++)
        {
            _model.Project(layer, _tensors.QueryRows(rows), _tensors.KeyRows(rows), _tensors.ValueRows(rows));
            _decode.Append(layer, _tensors.KeyRows(rows), _tensors.ValueRows(rows), stream);
            _decode.Run(layer, _tensors.QueryRows(rows), _tensors.OutputRows(rows), stream);
            _model.Absorb(layer, _tensors.OutputRows(rows));
        }
    }
}
