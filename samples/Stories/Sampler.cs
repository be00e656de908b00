using System.Numerics.Tensors;

namespace Stories;

/// <summary>Chooses the next token: the likeliest at temperature 0, else by chance; the same seed chooses the same.</summary>
internal sealed class Sampler(float temperature, ulong seed)
{
    // The generator must not sit at 0, its fixed point; the constant is 2^64 over the golden ratio.
    private ulong _state = seed == 0 ? 0x9E37_79B9_7F4A_7C15 : seed;

    /// <summary>Chooses; the logits are overwritten.</summary>
    public int Next(Span<float> logits)
    {
        if (temperature == 0)
        {
            return TensorPrimitives.IndexOfMax<float>(logits);
        }

        // The largest is taken off first: no exponential overflows, however low the temperature.
        TensorPrimitives.Subtract(logits, TensorPrimitives.Max<float>(logits), logits);
        TensorPrimitives.Divide(logits, temperature, logits);
        TensorPrimitives.Exp<float>(logits, logits);
        float left = Uniform() * TensorPrimitives.Sum<float>(logits);
        for (int token = 0; token < logits.Length - 1; token++)
        {
            left -= logits[token];
            if (left < 0)
            {
                return token;
            }
        }

        return logits.Length - 1;
    }

    /// <summary>xorshift64*, so that a seed means the same on every version of .NET. From 0 to below 1.</summary>
    private float Uniform()
    {
        _state ^= _state >> 12;
        _state ^= _state << 25;
        _state ^= _state >> 27;
        return ((_state * 0x2545_F491_4F6C_DD1D) >> 40) / (float)(1 << 24);
    }
}
