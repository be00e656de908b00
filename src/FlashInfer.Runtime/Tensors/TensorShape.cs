using System.Runtime.CompilerServices;

namespace FlashInfer;

/// <summary>The dimensions of a tensor: up to five, held in place so that views need no heap.</summary>
public readonly struct TensorShape : IEquatable<TensorShape>
{
    internal const int MaxRank = 5;

    private readonly Dimensions _dimensions;

    /// <summary>Makes a shape.</summary>
    /// <param name="dimensions">One to five dimensions, each 0 or more, outermost first.</param>
    public TensorShape(params ReadOnlySpan<int> dimensions)
    {
        if (dimensions.Length is 0 or > MaxRank)
        {
            throw new ArgumentException($"A shape has 1 to {MaxRank} dimensions, not {dimensions.Length}.", nameof(dimensions));
        }

        for (int i = 0; i < dimensions.Length; i++)
        {
            ArgumentOutOfRangeException.ThrowIfNegative(dimensions[i], nameof(dimensions));
            _dimensions[i] = dimensions[i];
        }

        Rank = dimensions.Length;
        CheckElements();
    }

    /// <summary>The number of dimensions.</summary>
    public int Rank { get; }

    /// <summary>The product of all dimensions.</summary>
    public long Elements
    {
        get
        {
            long product = Rank == 0 ? 0 : 1;
            for (int i = 0; i < Rank; i++)
            {
                product *= _dimensions[i];
            }

            return product;
        }
    }

    /// <summary>One dimension.</summary>
    /// <param name="dimension">0 is the outermost.</param>
    public int this[int dimension]
    {
        get
        {
            ArgumentOutOfRangeException.ThrowIfNegative(dimension);
            ArgumentOutOfRangeException.ThrowIfGreaterThanOrEqual(dimension, Rank);
            return _dimensions[dimension];
        }
    }

    /// <summary>Whether both shapes have the same dimensions.</summary>
    public static bool operator ==(TensorShape left, TensorShape right) => left.Equals(right);

    /// <summary>Whether the shapes differ.</summary>
    public static bool operator !=(TensorShape left, TensorShape right) => !left.Equals(right);

    /// <inheritdoc/>
    public bool Equals(TensorShape other)
    {
        ReadOnlySpan<int> mine = _dimensions;
        ReadOnlySpan<int> others = other._dimensions;
        return Rank == other.Rank && mine[..Rank].SequenceEqual(others[..Rank]);
    }

    /// <inheritdoc/>
    public override bool Equals(object? obj) => obj is TensorShape other && Equals(other);

    /// <inheritdoc/>
    public override int GetHashCode()
    {
        HashCode hash = default;
        for (int i = 0; i < Rank; i++)
        {
            hash.Add(_dimensions[i]);
        }

        return hash.ToHashCode();
    }

    /// <summary>The dimensions as <c>[50, 32, 128]</c>.</summary>
    public override string ToString()
    {
        ReadOnlySpan<int> dimensions = _dimensions;
        return $"[{string.Join(", ", dimensions[..Rank].ToArray())}]";
    }

    /// <summary>Refuses what 64-bit strides cannot count, zeros aside: one of them makes a tensor empty, whatever the others are.</summary>
    private void CheckElements()
    {
        const long Limit = long.MaxValue / sizeof(double);
        long product = 1;
        for (int i = 0; i < Rank; i++)
        {
            long dimension = Math.Max(1, _dimensions[i]);
            if (product > Limit / dimension)
            {
                throw new ArgumentOutOfRangeException(
                    "dimensions",
                    ToString(),
                    $"The shape has more than {Limit} elements; no device holds as many."
                );
            }

            product *= dimension;
        }
    }

    [InlineArray(MaxRank)]
    private struct Dimensions
    {
        private int _first;
    }
}

[InlineArray(TensorShape.MaxRank)]
internal struct TensorStrides
{
    private long _first;

    /// <summary>Strides of a tensor without gaps.</summary>
    public static TensorStrides Contiguous(TensorShape shape)
    {
        TensorStrides strides = default;
        long stride = 1;
        for (int i = shape.Rank - 1; i >= 0; i--)
        {
            strides[i] = stride;
            stride *= Math.Max(1, shape[i]);
        }

        return strides;
    }
}
