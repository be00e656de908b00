using System.Numerics.Tensors;
using FlashInfer;

namespace Stories;

/// <summary>
/// The model's attention through the SDK. The checkpoint decides the shape, so it goes by <see cref="AttentionSpec"/>; a program that
/// knows its model at compile time writes <c>[AttentionConfig]</c> and gets typed tensors instead.
/// </summary>
internal abstract class Attention : IDisposable
{
    public static Attention Create(Device device, Checkpoint model, DType dtype) =>
        dtype == DType.Float16
            ? new Attention<Half>(device, model, dtype, TensorPrimitives.ConvertToHalf, TensorPrimitives.ConvertToSingle)
            : new Attention<BFloat16>(device, model, dtype, BFloat16.Convert, BFloat16.Convert);

    /// <summary>Makes room for one token and returns its position.</summary>
    public abstract int Begin();

    /// <summary>Stores the token's key and value in one layer and attends to all tokens so far.</summary>
    public abstract void Run(int layer, ReadOnlySpan<float> query, ReadOnlySpan<float> key, ReadOnlySpan<float> value, Span<float> output);

    /// <summary>Keeps the token.</summary>
    public abstract void End();

    public abstract void Dispose();
}

/// <inheritdoc/>
internal sealed class Attention<T> : Attention
    where T : unmanaged
{
    private const int PageSize = 16;

    private readonly Action<ReadOnlySpan<float>, Span<T>> _narrow;
    private readonly Action<ReadOnlySpan<T>, Span<float>> _widen;
    private readonly int _headDim;
    private readonly int _kernelHeadDim;
    private readonly float _smScale;
    private readonly PagedKvCache _cache;
    private readonly BatchDecodeWithPagedKvCache _decode;
    private readonly Sequence _sequence;
    private readonly DeviceTensor<T> _query;
    private readonly DeviceTensor<T> _key;
    private readonly DeviceTensor<T> _value;
    private readonly DeviceTensor<T> _output;
    private readonly float[] _padded;
    private readonly T[] _transfer;

    public Attention(
        Device device,
        Checkpoint model,
        DType dtype,
        Action<ReadOnlySpan<float>, Span<T>> narrow,
        Action<ReadOnlySpan<T>, Span<float>> widen
    )
    {
        _narrow = narrow;
        _widen = widen;
        _headDim = model.HeadDim;

        // Kernels have a few head dims. Zeros behind a shorter head change no dot product; the scale stays that of the true head.
        _kernelHeadDim = _headDim switch
        {
            <= 64 => 64,
            <= 128 => 128,
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
        _query = device.Allocate<T>(1, model.Heads, _kernelHeadDim);
        _key = device.Allocate<T>(1, model.KvHeads, _kernelHeadDim);
        _value = device.Allocate<T>(1, model.KvHeads, _kernelHeadDim);
        _output = device.Allocate<T>(1, model.Heads, _kernelHeadDim);
        _padded = new float[model.Heads * _kernelHeadDim];
        _transfer = new T[model.Heads * _kernelHeadDim];
    }

    public override int Begin()
    {
        int position = _sequence.Length;
        _cache.BeginForward(_sequence, tokens: 1);
        _decode.Plan([_sequence], _smScale);
        return position;
    }

    public override void Run(int layer, ReadOnlySpan<float> query, ReadOnlySpan<float> key, ReadOnlySpan<float> value, Span<float> output)
    {
        Upload(query, _query);
        Upload(key, _key);
        Upload(value, _value);
        _decode.Append(layer, _key.View, _value.View);
        _decode.Run(layer, _query.View, _output.View);
        _output.View.CopyTo(_transfer);
        _widen(_transfer, _padded);
        for (int head = 0; head * _headDim < output.Length; head++)
        {
            _padded.AsSpan(head * _kernelHeadDim, _headDim).CopyTo(output[(head * _headDim)..]);
        }
    }

    public override void End() => _cache.EndForward(_sequence);

    public override void Dispose()
    {
        _output.Dispose();
        _value.Dispose();
        _key.Dispose();
        _query.Dispose();
        _decode.Dispose();
        _cache.Dispose();
    }

    private void Upload(ReadOnlySpan<float> heads, DeviceTensor<T> tensor)
    {
        int length = heads.Length / _headDim * _kernelHeadDim;
        Span<float> padded = _padded.AsSpan(0, length);
        padded.Clear();
        for (int head = 0; head * _headDim < heads.Length; head++)
        {
            heads.Slice(head * _headDim, _headDim).CopyTo(padded[(head * _kernelHeadDim)..]);
        }

        _narrow(padded, _transfer.AsSpan(0, length));
        tensor.View.CopyFrom(_transfer.AsSpan(0, length));
    }
}
