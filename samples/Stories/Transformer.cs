using System.Numerics.Tensors;
using FlashInfer;

namespace Stories;

/// <summary>A Llama model that takes a prompt, then one token a step: everything but attention is computed here, on the CPU.</summary>
internal sealed class Transformer : IDisposable
{
    private const float NormEpsilon = 1e-5f;
    private const float RopeTheta = 10_000;

    private readonly Checkpoint _model;
    private readonly Attention _attention;
    private readonly float[] _normed;
    private readonly float[] _projected;
    private readonly float[] _gate;
    private readonly float[] _up;
    private readonly float[] _logits;

    // A row for each token of the step.
    private float[] _stream = [];
    private float[] _query = [];
    private float[] _key = [];
    private float[] _value = [];
    private float[] _attended = [];

    public Transformer(Checkpoint model, Device device, DType dtype)
    {
        _model = model;
        _attention = new Attention(device, model, dtype);
        _normed = new float[model.Dim];
        _projected = new float[model.Dim];
        _gate = new float[model.HiddenDim];
        _up = new float[model.HiddenDim];
        _logits = new float[model.VocabularySize];
    }

    /// <summary>Takes the next tokens of the text; gives the logits of the one after the last, valid until the next call.</summary>
    public Span<float> Forward(params ReadOnlySpan<int> tokens)
    {
        int first = _attention.Begin(tokens.Length);
        Reserve(tokens.Length);
        for (int n = 0; n < tokens.Length; n++)
        {
            _model.Embedding.AsSpan(tokens[n] * _model.Dim, _model.Dim).CopyTo(Row(_stream, n));
        }

        for (int layer = 0; layer < _model.LayerCount; layer++)
        {
            Checkpoint.Layer weights = _model.Layers[layer];
            for (int n = 0; n < tokens.Length; n++)
            {
                Normalize(Row(_stream, n), weights.AttentionNorm, _normed);
                Multiply(weights.Query, _normed, Row(_query, n));
                Multiply(weights.Key, _normed, KvRow(_key, n));
                Multiply(weights.Value, _normed, KvRow(_value, n));
                Rotate(Row(_query, n), first + n);
                Rotate(KvRow(_key, n), first + n);
            }

            _attention.Run(layer, _query, _key, _value, _attended);
            for (int n = 0; n < tokens.Length; n++)
            {
                Span<float> stream = Row(_stream, n);
                Multiply(weights.Output, Row(_attended, n), _projected);
                TensorPrimitives.Add(stream, _projected, stream);

                Normalize(stream, weights.FeedForwardNorm, _normed);
                Multiply(weights.Gate, _normed, _gate);
                Multiply(weights.Up, _normed, _up);
                SwiGlu(_gate, _up);
                Multiply(weights.Down, _gate, _projected);
                TensorPrimitives.Add(stream, _projected, stream);
            }
        }

        _attention.End();
        Normalize(Row(_stream, tokens.Length - 1), _model.FinalNorm, _normed);
        Multiply(_model.Classifier, _normed, _logits);
        return _logits;
    }

    public void Dispose() => _attention.Dispose();

    private Span<float> Row(float[] rows, int n) => rows.AsSpan(n * _model.Dim, _model.Dim);

    private Span<float> KvRow(float[] rows, int n) => rows.AsSpan(n * _model.KvHeads * _model.HeadDim, _model.KvHeads * _model.HeadDim);

    private void Reserve(int tokens)
    {
        if (_stream.Length != tokens * _model.Dim)
        {
            _stream = new float[tokens * _model.Dim];
            _query = new float[tokens * _model.Dim];
            _key = new float[tokens * _model.KvHeads * _model.HeadDim];
            _value = new float[tokens * _model.KvHeads * _model.HeadDim];
            _attended = new float[tokens * _model.Dim];
        }
    }

    private static void Normalize(ReadOnlySpan<float> input, ReadOnlySpan<float> weight, Span<float> output)
    {
        float meanSquare = TensorPrimitives.SumOfSquares(input) / input.Length;
        TensorPrimitives.Multiply(input, 1 / MathF.Sqrt(meanSquare + NormEpsilon), output);
        TensorPrimitives.Multiply(output, weight, output);
    }

    private static void Multiply(ReadOnlySpan<float> matrix, ReadOnlySpan<float> input, Span<float> output)
    {
        for (int row = 0; row < output.Length; row++)
        {
            output[row] = TensorPrimitives.Dot(matrix.Slice(row * input.Length, input.Length), input);
        }
    }

    /// <summary>Rotates each pair (2i, 2i + 1) of each head by an angle that grows with the position.</summary>
    private void Rotate(Span<float> heads, int position)
    {
        for (int i = 0; i < heads.Length; i += 2)
        {
            float frequency = 1 / MathF.Pow(RopeTheta, i % _model.HeadDim / (float)_model.HeadDim);
            (float sin, float cos) = MathF.SinCos(position * frequency);
            (heads[i], heads[i + 1]) = ((heads[i] * cos) - (heads[i + 1] * sin), (heads[i] * sin) + (heads[i + 1] * cos));
        }
    }

    /// <summary>gate = gate * sigmoid(gate) * up. The sigmoid is taken in place of up's copy, so up is overwritten.</summary>
    private static void SwiGlu(Span<float> gate, Span<float> up)
    {
        TensorPrimitives.Multiply(up, gate, up);
        TensorPrimitives.Sigmoid(gate, gate);
        TensorPrimitives.Multiply(gate, up, gate);
    }
}
