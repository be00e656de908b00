using System.Numerics.Tensors;
using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer;

// Between tensors here and those of System.Numerics.Tensors.
public readonly unsafe partial struct TensorView<T>
{
    /// <summary>The elements themselves, in place. For the CPU device only: elsewhere they are copied, by <c>CopyTo</c>.</summary>
    /// <returns>A span that is valid while the tensor is.</returns>
    /// <exception cref="InvalidOperationException">The tensor lies on a GPU.</exception>
    public TensorSpan<T> AsTensorSpan()
    {
        if (_view.IsEmpty)
        {
            throw new InvalidOperationException("This view is no tensor (default); it has no elements.");
        }

        if (Device.Kind != DeviceKind.Cpu)
        {
            throw new InvalidOperationException($"{this} cannot be reached from the host; copy it by CopyTo.");
        }

        Span<nint> lengths = stackalloc nint[Shape.Rank];
        Span<nint> strides = stackalloc nint[Shape.Rank];
        nint last = 0;
        for (int i = 0; i < lengths.Length; i++)
        {
            lengths[i] = Shape[i];
            // A dimension without neighbours has no stride there.
            strides[i] = Shape[i] > 1 ? (nint)Stride(i) : 0;
            last += Math.Max(0, lengths[i] - 1) * strides[i];
        }

        return new TensorSpan<T>((T*)Address, Shape.Elements == 0 ? 0 : last + 1, lengths, strides);
    }

    /// <summary>Copies a host tensor of the same shape into this one, in stream order; the source may be reused on return.</summary>
    /// <param name="source">The values, with or without gaps.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void CopyFrom(in ReadOnlyTensorSpan<T> source, CudaStream? stream = null)
    {
        CheckSame(source.Lengths, nameof(source));
        if (source.IsDense)
        {
            CopyFrom(MemoryMarshal.CreateReadOnlySpan(in source.GetPinnableReference(), checked((int)source.FlattenedLength)), stream);
            return;
        }

        T[] values = new T[source.FlattenedLength];
        source.FlattenTo(values);
        CopyFrom(values, stream);
    }

    /// <summary>Copies this tensor to a host tensor of the same shape, in stream order, and waits for it.</summary>
    /// <param name="destination">Room for the values, with or without gaps.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public void CopyTo(in TensorSpan<T> destination, CudaStream? stream = null)
    {
        CheckSame(destination.Lengths, nameof(destination));
        if (destination.IsDense)
        {
            CopyTo(MemoryMarshal.CreateSpan(ref destination.GetPinnableReference(), checked((int)destination.FlattenedLength)), stream);
            return;
        }

        new ReadOnlyTensorSpan<T>(ToArray(stream), destination.Lengths).CopyTo(destination);
    }

    private void CheckSame(ReadOnlySpan<nint> lengths, string name)
    {
        bool same = !_view.IsEmpty && lengths.Length == Shape.Rank;
        for (int i = 0; same && i < lengths.Length; i++)
        {
            same = lengths[i] == Shape[i];
        }

        if (!same)
        {
            throw new ArgumentException($"The host tensor is [{string.Join(", ", lengths.ToArray())}]; this is {this}.", name);
        }
    }
}
