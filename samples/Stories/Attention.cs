using FlashInfer;

namespace Stories;

/// <summary>
/// The model's attention through the SDK. The checkpoint decides the shape, so it goes by <see cref="AttentionSpec"/>; a program that
/// knows its model at compile time writes <c>[AttentionConfig]</c> and gets typed tensors instead.
/// </summary>
internal sealed class Attention : IDisposable
{
    private const int PageSize = 16;

    private readonly int _headDim;
    private readonly int _kernelHeadDim;
    private readonly float _smScale;
    private readonly Device _device;
    private readonly PagedKvCache _cache;
    private readonly BatchPrefillWithPagedKvCache _prefill;
    private readonly BatchDecodeWithPagedKvCache _decode;
    private readonly Sequence _sequence;
    private Tensors _tensors;

    public Attention(Device device, Checkpoint model, DType dtype)
    {
        _headDim = model.HeadDim;

        // Kernels have a few head dims. Zeros behind a shorter head change no dot product; the scale stays that of the true head.
        _kernelHeadDim = _headDim switch
        {
            <= 64 => 64,
            <= 96 => 96,
            <= 128 => 128,
            <= 192 => 192,
            _ => 256,
        };
        if (_headDim > _kernelHeadDim)
        {
            throw new InvalidDataException($"The checkpoint's heads have {_headDim} elements; the kernels take at most {_kernelHeadDim}.");
        }

        _smScale = 1 / MathF.Sqrt(_headDim);
        AttentionSpec spec = new(model.Heads, model.KvHeads, _kernelHeadDim, PageSize, dtype);
        int pages = (model.MaxTokens + PageSize - 1) / PageSize;
        _device = device;
        _cache = new PagedKvCache(device, spec, model.LayerCount, pages);
        _prefill = new BatchPrefillWithPagedKvCache(_cache, maxSequences: 1, maxQueryTokens: model.MaxTokens);
        _decode = new BatchDecodeWithPagedKvCache(_cache, maxSequences: 1);
        _sequence = _cache.NewSequence();
        _tensors = new Tensors(device, spec, tokens: 1);
    }

    /// <summary>Makes room for tokens and returns the position of the first.</summary>
    public int Begin(int tokens)
    {
        int position = _sequence.Length;
        _cache.BeginForward(_sequence, tokens);
        if (tokens == 1)
        {
            _decode.Plan([_sequence], _smScale);
        }
        else
        {
            _prefill.Plan([_sequence], _smScale);
        }

        if (_tensors.Tokens != tokens)
        {
            _tensors.Dispose();
            _tensors = new Tensors(_device, _cache.Spec, tokens);
        }

        return position;
    }

    /// <summary>Stores the tokens' keys and values in one layer; each token attends to all before it and to itself.</summary>
    public void Run(int layer, ReadOnlySpan<float> query, ReadOnlySpan<float> key, ReadOnlySpan<float> value, Span<float> output)
    {
        Tensors t = _tensors;
        Upload(query, t.Query);
        Upload(key, t.Key);
        Upload(value, t.Value);
        if (t.Tokens == 1)
        {
            _decode.Append(layer, t.Key, t.Value);
            _decode.Run(layer, t.Query, t.Output);
        }
        else
        {
            _prefill.Append(layer, t.Key, t.Value);
            _prefill.Run(layer, t.Query, t.Output);
        }

        t.Output.CopyTo(t.Padded);
        for (int head = 0; head * _headDim < output.Length; head++)
        {
            t.Padded.AsSpan(head * _kernelHeadDim, _headDim).CopyTo(output[(head * _headDim)..]);
        }
    }

    /// <summary>Keeps the tokens.</summary>
    public void End() => _cache.EndForward(_sequence);

    public void Dispose()
    {
        _tensors.Dispose();
        _decode.Dispose();
        _prefill.Dispose();
        _cache.Dispose();
    }

    private void Upload(ReadOnlySpan<float> heads, DeviceTensor tensor)
    {
        Span<float> padded = _tensors.Padded.AsSpan(0, heads.Length / _headDim * _kernelHeadDim);
        padded.Clear();
        for (int head = 0; head * _headDim < heads.Length; head++)
        {
            heads.Slice(head * _headDim, _headDim).CopyTo(padded[(head * _kernelHeadDim)..]);
        }

        tensor.CopyFrom(padded);
    }

    /// <summary>Tensors of one step, and room for the floats of the largest of them.</summary>
    private sealed class Tensors(Device device, AttentionSpec spec, int tokens) : IDisposable
    {
        public int Tokens => tokens;

        public DeviceTensor Query { get; } = device.Allocate(spec.Dtype, tokens, spec.Heads, spec.HeadDim);

        public DeviceTensor Key { get; } = device.Allocate(spec.Dtype, tokens, spec.KvHeads, spec.HeadDim);

        public DeviceTensor Value { get; } = device.Allocate(spec.Dtype, tokens, spec.KvHeads, spec.HeadDim);

        public DeviceTensor Output { get; } = device.Allocate(spec.Dtype, tokens, spec.Heads, spec.HeadDim);

        public float[] Padded { get; } = new float[tokens * spec.Heads * spec.HeadDim];

        public void Dispose()
        {
            Output.Dispose();
            Value.Dispose();
            Key.Dispose();
            Query.Dispose();
        }
    }
}
