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
    private readonly PagedKvCache _cache;
    private readonly BatchDecodeWithPagedKvCache _decode;
    private readonly Sequence _sequence;
    private readonly DeviceTensor _query;
    private readonly DeviceTensor _key;
    private readonly DeviceTensor _value;
    private readonly DeviceTensor _output;
    private readonly float[] _padded;

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
        _cache = new PagedKvCache(device, spec, model.LayerCount, pages);
        _decode = new BatchDecodeWithPagedKvCache(_cache, maxSequences: 1);
        _sequence = _cache.NewSequence();
        _query = device.Allocate(dtype, 1, model.Heads, _kernelHeadDim);
        _key = device.Allocate(dtype, 1, model.KvHeads, _kernelHeadDim);
        _value = device.Allocate(dtype, 1, model.KvHeads, _kernelHeadDim);
        _output = device.Allocate(dtype, 1, model.Heads, _kernelHeadDim);
        _padded = new float[model.Heads * _kernelHeadDim];
    }

    /// <summary>Makes room for one token and returns its position.</summary>
    public int Begin()
    {
        int position = _sequence.Length;
        _cache.BeginForward(_sequence, tokens: 1);
        _decode.Plan([_sequence], _smScale);
        return position;
    }

    /// <summary>Stores the token's key and value in one layer and attends to all tokens so far.</summary>
    public void Run(int layer, ReadOnlySpan<float> query, ReadOnlySpan<float> key, ReadOnlySpan<float> value, Span<float> output)
    {
        Upload(query, _query);
        Upload(key, _key);
        Upload(value, _value);
        _decode.Append(layer, _key, _value);
        _decode.Run(layer, _query, _output);
        _output.CopyTo(_padded);
        for (int head = 0; head * _headDim < output.Length; head++)
        {
            _padded.AsSpan(head * _kernelHeadDim, _headDim).CopyTo(output[(head * _headDim)..]);
        }
    }

    /// <summary>Keeps the token.</summary>
    public void End() => _cache.EndForward(_sequence);

    public void Dispose()
    {
        _output.Dispose();
        _value.Dispose();
        _key.Dispose();
        _query.Dispose();
        _decode.Dispose();
        _cache.Dispose();
    }

    private void Upload(ReadOnlySpan<float> heads, DeviceTensor tensor)
    {
        Span<float> padded = _padded.AsSpan(0, heads.Length / _headDim * _kernelHeadDim);
        padded.Clear();
        for (int head = 0; head * _headDim < heads.Length; head++)
        {
            heads.Slice(head * _headDim, _headDim).CopyTo(padded[(head * _kernelHeadDim)..]);
        }

        tensor.CopyFrom(padded);
    }
}
