using System.Numerics.Tensors;
using FlashInfer;

namespace Stories;

/// <summary>A Llama model that takes one token a step: everything but attention is computed here, on the CPU.</summary>
internal sealed class Transformer : IDisposable
{
    private const float NormEpsilon = 1e-5f;
    private const float RopeTheta = 10_000;

    private readonly Checkpoint _model;
    private readonly Attention _attention;
    private readonly float[] _stream;
    private readonly float[] _normed;
    private readonly float[] _query;
    private readonly float[] _key;
    private readonly float[] _value;
    private readonly float[] _attended;
    private readonly float[] _projected;
    private readonly float[] _gate;
    private readonly float[] _up;
    private readonly float[] _logits;

    public Transformer(Checkpoint model, Device device, DType dtype)
    {
        _model = model;
        _attention = new Attention(device, model, dtype);
        _stream = new float[model.Dim];
        _normed = new float[model.Dim];
        _query = new float[model.Dim];
        _key = new float[model.KvHeads * model.HeadDim];
        _value = new float[model.KvHeads * model.HeadDim];
        _attended = new float[model.Dim];
        _projected = new float[model.Dim];
        _gate = new float[model.HiddenDim];
        _up = new float[model.HiddenDim];
        _logits = new float[model.VocabularySize];
    }

    /// <summary>Takes the next token of the text; gives the logits of the one after it, valid until the next call.</summary>
    public Span<float> Forward(int token)
    {
        int position = _attention.Begin();
        _model.Embedding.AsSpan(token * _model.Dim, _model.Dim).CopyTo(_stream);
        for (int layer = 0; layer < _model.LayerCount; layer++)
        {
            Checkpoint.Layer weights = _model.Layers[layer];
            Normalize(_stream, weights.AttentionNorm, _normed);
            Multiply(weights.Query, _normed, _query);
            Multiply(weights.Key, _normed, _key);
            Multiply(weights.Value, _normed, _value);
            Rotate(_query, position);
            Rotate(_key, position);
            _attention.Run(layer, _query, _key, _value, _attended);
            Multiply(weights.Output, _attended, _projected);
            TensorPrimitives.Add(_stream, _projected, _stream);

            Normalize(_stream, weights.FeedForwardNorm, _normed);
            Multiply(weights.Gate, _normed, _gate);
            Multiply(weights.Up, _normed, _up);
            SwiGlu(_gate, _up);
            Multiply(weights.Down, _gate, _projected);
            TensorPrimitives.Add(_stream, _projected, _stream);
        }

        _attention.End();
        Normalize(_stream, _model.FinalNorm, _normed);
        Multiply(_model.Classifier, _normed, _logits);
        return _logits;
    }

    public void Dispose() => _attention.Dispose();

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
