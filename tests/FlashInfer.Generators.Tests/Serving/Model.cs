using System;
using FlashInfer;
using FlashInfer.Cuda;

namespace Serving;

[AttentionConfig(heads: 32, kvHeads: 8, headDim: 128, pageSize: 16, dtype: DType.BFloat16, KvDtype = DType.Float8E4M3)]
public partial class Attention;

[AttentionConfig(heads: 16, kvHeads: 8, headDim: 64, pageSize: 16, dtype: DType.BFloat16)]
public partial class DraftAttention;

/// <summary>What surrounds attention in a model: projections, feed-forward, sampling.</summary>
public interface IModel
{
    int Layers { get; }

    void Project(int layer, Attention.Query query, Attention.Key key, Attention.Value value);

    void Absorb(int layer, Attention.Output output);

    int Sample(int row);
}

/// <summary>A request on its way.</summary>
public sealed class Request(Sequence sequence, int[] prompt, int maxTokens)
{
    public Sequence Sequence { get; } = sequence;

    public int[] Prompt { get; } = prompt;

    public int Prefilled { get; set; }

    public int Generated { get; set; }

    public bool IsFinished => Generated >= maxTokens;

    public bool IsPrefilled => Prefilled == Prompt.Length;
}

/// <summary>The tensors of one step, for at most so many rows.</summary>
public sealed class StepTensors : IDisposable
{
    public StepTensors(Device device, int rows)
    {
        Query = Attention.AllocateQuery(device, rows);
        Key = Attention.AllocateKey(device, rows);
        Value = Attention.AllocateValue(device, rows);
        Output = Attention.AllocateOutput(device, rows);
    }

    public Attention.Query Query { get; }

    public Attention.Key Key { get; }

    public Attention.Value Value { get; }

    public Attention.Output Output { get; }

    public Attention.Query QueryRows(int rows) => Query.Rows(0, rows);

    public Attention.Key KeyRows(int rows) => Key.Rows(0, rows);

    public Attention.Value ValueRows(int rows) => Value.Rows(0, rows);

    public Attention.Output OutputRows(int rows) => Output.Rows(0, rows);

    public void Dispose()
    {
        Query.Dispose();
        Key.Dispose();
        Value.Dispose();
        Output.Dispose();
    }
}
