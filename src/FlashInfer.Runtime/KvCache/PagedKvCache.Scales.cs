using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using FlashInfer.KvCache;

namespace FlashInfer;

// The scales of a quantised cache.
public partial class PagedKvCache
{
    /// <summary>Floats between the scales of two layers' keys or values: they start at multiples of 16 bytes, as kernels' pointers do.</summary>
    private int ScaleStride => (Spec.KvHeads + 3) & ~3;

    /// <summary>Gives one layer of a quantised cache a scale for each KV head, in stream order.</summary>
    /// <remarks>
    /// <para>
    /// <c>Append</c> stores a key or value x as x / scale, divided in single precision, rounded to nearest even, and cut off at the largest
    /// finite value of <see cref="AttentionSpec.KvDtype"/>. Attention multiplies what is stored with the scale: in the logits (and so in the
    /// LSE) for keys, in the output for values. A good scale is the largest magnitude of the head's keys or values over that largest value,
    /// 448 or 57,344.
    /// </para>
    /// <para>
    /// Scales belong to the layer, not to a token. What is stored already is not rewritten and means something else under another scale:
    /// set them before the first token, or only where that is meant.
    /// </para>
    /// </remarks>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="keyScales">Scales of keys, finite and above 0: kvHeads of them, or a single one for all heads.</param>
    /// <param name="valueScales">As <paramref name="keyScales"/>, of values.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised, or the stream is being captured.</exception>
    /// <exception cref="ArgumentException">There are neither 1 nor kvHeads scales.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, or a scale is not finite and above 0.</exception>
    public void SetScales(int layer, ReadOnlySpan<float> keyScales, ReadOnlySpan<float> valueScales, CudaStream? stream = null)
    {
        using UseGuard.Use use = Enter();
        RequireQuantised();
        CheckLayer(layer);
        Device.CheckStream(stream);
        CheckScales(keyScales, nameof(keyScales));
        CheckScales(valueScales, nameof(valueScales));

        // Keys and values in one copy: a failure of the device leaves both as they were.
        Span<float> both = stackalloc float[2 * ScaleStride];
        Spread(keyScales, both[..Spec.KvHeads]);
        Spread(valueScales, both.Slice(ScaleStride, Spec.KvHeads));
        Device.Backend.CopyIn(ScaleAddress(layer, 0), MemoryMarshal.AsBytes(both), stream);
    }

    /// <summary>As <see cref="SetScales(int, ReadOnlySpan{float}, ReadOnlySpan{float}, CudaStream?)"/>, with one scale for all heads.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <param name="keyScale">The scale of all keys, finite and above 0.</param>
    /// <param name="valueScale">The scale of all values, finite and above 0.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised, or the stream is being captured.</exception>
    /// <exception cref="ArgumentOutOfRangeException">There is no such layer, or a scale is not finite and above 0.</exception>
    public void SetScales(int layer, float keyScale, float valueScale, CudaStream? stream = null) =>
        SetScales(layer, new ReadOnlySpan<float>(in keyScale), new ReadOnlySpan<float>(in valueScale), stream);

    /// <summary>What stored keys of one layer are multiplied by: [kvHeads]. Set them with <c>SetScales</c>, which checks them.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised.</exception>
    public TensorView<float> KeyScales(int layer) => Scales(layer, 0);

    /// <summary>As <see cref="KeyScales"/>, of values.</summary>
    /// <param name="layer">The layer, from 0.</param>
    /// <exception cref="InvalidOperationException">The cache is not quantised.</exception>
    public TensorView<float> ValueScales(int layer) => Scales(layer, 1);

    /// <summary>Address of a layer's key scales; 0 unless the cache is quantised.</summary>
    internal nint KeyScaleAddress(int layer) => ScaleAddress(layer, 0);

    /// <summary>As <see cref="KeyScaleAddress"/>, of values.</summary>
    internal nint ValueScaleAddress(int layer) => ScaleAddress(layer, 1);

    private static DeviceMemory Ones(Device device, long count)
    {
        DeviceMemory memory = new(device, count * sizeof(float));
        try
        {
            float[] ones = new float[count];
            ones.AsSpan().Fill(1f);
            device.Backend.CopyIn(memory.Address, MemoryMarshal.AsBytes(ones.AsSpan()), null);
            // The first launch may go to any stream, which knows nothing of the copy on the device's own.
            device.Synchronize();
            return memory;
        }
        catch
        {
            memory.Dispose();
            throw;
        }
    }

    private nint ScaleAddress(int layer, int part) =>
        _scales is null ? 0 : _scales.Address + checked((nint)(((2 * (long)layer) + part) * ScaleStride * sizeof(float)));

    private TensorView<float> Scales(int layer, int part)
    {
        ThrowIfDisposed();
        RequireQuantised();
        CheckLayer(layer);
        TensorShape shape = new(Spec.KvHeads);
        return new TensorView(
            Device,
            _scales,
            ScaleAddress(layer, part),
            DType.Float32,
            shape,
            TensorStrides.Contiguous(shape)
        ).As<float>();
    }

    private void RequireQuantised()
    {
        if (_scales is null)
        {
            throw new InvalidOperationException(
                $"The cache holds {Spec.KvDtype}, which has no scales; only a cache whose KvDtype is Float8E4M3 or Float8E5M2 is quantised."
            );
        }
    }

    private void CheckScales(ReadOnlySpan<float> scales, string name)
    {
        if (scales.Length != 1 && scales.Length != Spec.KvHeads)
        {
            throw new ArgumentException(
                $"{name} has {scales.Length} scales; expected {Spec.KvHeads}, one for each KV head, or 1 for all of them.",
                name
            );
        }

        for (int head = 0; head < scales.Length; head++)
        {
            if (!float.IsFinite(scales[head]) || scales[head] <= 0)
            {
                throw new ArgumentOutOfRangeException(
                    name,
                    scales[head],
                    $"Scale {head} of {name} is {scales[head]}; expected a finite number above 0, such as the largest magnitude of what is stored over the largest {Spec.KvDtype}."
                );
            }
        }
    }

    private static void Spread(ReadOnlySpan<float> scales, Span<float> heads)
    {
        if (scales.Length == 1)
        {
            heads.Fill(scales[0]);
            return;
        }

        scales.CopyTo(heads);
    }
}
