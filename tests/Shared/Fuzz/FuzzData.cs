using System.Runtime.InteropServices;

namespace FlashInfer.Tests.Fuzz;

/// <summary>
/// What a fuzzed variant is asked: words that C# and CUDA read alike. First its spans (8 ints, 8 uints, 8 floats, 8 bytes, 8 bools), then
/// rows of a logit's context (8 words, as <c>LogitsContext</c> of the kernels has them), the logit, the scalars, and what an element of query or
/// output has besides: its place and the log-sum-exp.
/// </summary>
internal static class FuzzData
{
    public const int SpanWords = (3 * FuzzProgram.SpanLength) + (2 * FuzzProgram.SpanLength / sizeof(uint));
    public const int RowWords = 8 + 1 + 7 + 2;

    /// <summary>Words of a row's answer: transform, mask, first key, sink, element of the query, of the output.</summary>
    public const int ResultWords = 6;

    /// <summary>
    /// The C# that asks: a class Driver whose method Run fills in the answers and which of them are not to be compared since C# threw.
    /// </summary>
    public const string Driver = """
        public static class Driver
        {
            public static void Run(uint[] data, uint[] results, bool[] threw)
            {
                ReadOnlySpan<byte> bytes = System.Runtime.InteropServices.MemoryMarshal.AsBytes(data.AsSpan(24, 4));
                ReadOnlySpan<bool> bools = System.Runtime.InteropServices.MemoryMarshal.Cast<byte, bool>(bytes[8..]);
                for (int row = 0; row < results.Length / 6; row++)
                {
                    ReadOnlySpan<uint> w = data.AsSpan(28 + row * 18, 18);
                    LogitsContext at = new()
                    {
                        Head = (int)w[0],
                        KvHead = (int)w[1],
                        Sequence = (int)w[2],
                        QoIndex = (int)w[3],
                        QoPosition = (int)w[4],
                        KvPosition = (int)w[5],
                        QoLen = (int)w[6],
                        KvLen = (int)w[7],
                    };
                    ElementContext element = new()
                    {
                        Head = at.Head,
                        KvHead = at.KvHead,
                        Sequence = at.Sequence,
                        QoIndex = at.QoIndex,
                        QoPosition = at.QoPosition,
                        QoLen = at.QoLen,
                        KvLen = at.KvLen,
                        Element = (int)w[16],
                    };
                    Subject.Arguments a = new()
                    {
                        A = (int)w[9],
                        B = (int)w[10],
                        U = w[11],
                        V = w[12],
                        F = BitConverter.UInt32BitsToSingle(w[13]),
                        G = BitConverter.UInt32BitsToSingle(w[14]),
                        Flag = w[15] != 0,
                        Ints = System.Runtime.InteropServices.MemoryMarshal.Cast<uint, int>(data.AsSpan(0, 8)),
                        Uints = data.AsSpan(8, 8),
                        Floats = System.Runtime.InteropServices.MemoryMarshal.Cast<uint, float>(data.AsSpan(16, 8)),
                        Bytes = bytes[..8],
                        Bools = bools,
                    };
                    for (int hook = 0; hook < 6; hook++)
                    {
                        try
                        {
                            results[row * 6 + hook] = hook switch
                            {
                                0 => BitConverter.SingleToUInt32Bits(Subject.Transform(BitConverter.UInt32BitsToSingle(w[8]), at, a)),
                                1 => Subject.Keep(at, a) ? 1u : 0u,
                                2 => (uint)Subject.FirstKey(at, a),
                                3 => BitConverter.SingleToUInt32Bits(Subject.Sink((int)w[0], a)),
                                4 => BitConverter.SingleToUInt32Bits(Subject.QueryElement(BitConverter.UInt32BitsToSingle(w[8]), element, a)),
                                _ => BitConverter.SingleToUInt32Bits(Subject.OutputElement(BitConverter.UInt32BitsToSingle(w[8]), BitConverter.UInt32BitsToSingle(w[17]), element, a)),
                            };
                        }
                        catch (Exception e) when (e is ArithmeticException or IndexOutOfRangeException or ArgumentException)
                        {
                            threw[row * 6 + hook] = true;
                        }
                    }
                }
            }
        }
        """;

    /// <summary>The CUDA, or C++, that asks: a function template over the variant, for one row.</summary>
    public const string Evaluate = """
        template <typename Variant>
        __device__ void evaluate(const unsigned* data, unsigned* results, int row) {
          const unsigned* w = data + 28 + row * 18;
          flashinfer::LogitsContext at;
          at.head = w[0];
          at.kv_head = w[1];
          at.sequence = w[2];
          at.qo_index = w[3];
          at.qo_position = w[4];
          at.kv_position = w[5];
          at.qo_len = w[6];
          at.kv_len = w[7];
          flashinfer::ElementContext element;
          element.head = at.head;
          element.kv_head = at.kv_head;
          element.sequence = at.sequence;
          element.qo_index = at.qo_index;
          element.qo_position = at.qo_position;
          element.qo_len = at.qo_len;
          element.kv_len = at.kv_len;
          element.element = w[16];
          typename Variant::Arguments a;
          a.a = w[9];
          a.b = w[10];
          a.u = w[11];
          a.v = w[12];
          a.f = flashinfer::csharp::from_bits(w[13]);
          a.g = flashinfer::csharp::from_bits(w[14]);
          a.flag = w[15];
          const unsigned char* bytes = reinterpret_cast<const unsigned char*>(data + 24);
          a.ints = {reinterpret_cast<const int*>(data), 8, 0};
          a.uints = {data + 8, 8, 0};
          a.floats = {reinterpret_cast<const float*>(data + 16), 8, 0};
          a.bytes = {bytes, 8, 0};
          a.bools = {reinterpret_cast<const bool*>(bytes + 8), 8, 0};
          unsigned* out = results + row * 6;
          out[0] = flashinfer::csharp::bits(Variant::transform(flashinfer::csharp::from_bits(w[8]), at, a));
          out[1] = Variant::keep(at, a) ? 1 : 0;
          out[2] = Variant::first_key(at, a);
          out[3] = flashinfer::csharp::bits(Variant::sink(w[0], a));
          out[4] = flashinfer::csharp::bits(Variant::transform_query(flashinfer::csharp::from_bits(w[8]), element, a));
          out[5] = flashinfer::csharp::bits(Variant::transform_output(flashinfer::csharp::from_bits(w[8]), flashinfer::csharp::from_bits(w[17]), element, a));
        }

        """;

    private static readonly uint[] s_words =
    [
        0,
        1,
        2,
        3,
        31,
        32,
        100,
        0x7FFFFFFF,
        0x80000000,
        0xFFFFFFFF,
        0xFFFFFFFE,
        0xFFFFFF00,
        0x40000000,
    ];

    private static readonly float[] s_floats =
    [
        0f,
        -0f,
        1f,
        -1f,
        0.5f,
        2.5f,
        -3.75f,
        1e9f,
        -1e9f,
        3e9f,
        -3e10f,
        1e-40f,
        float.NaN,
        float.PositiveInfinity,
        float.NegativeInfinity,
        float.MaxValue,
    ];

    private const int MaxTokens = (1 << 30) - 1;

    /// <summary>Random words: what is large, small, or special is as frequent as the rest.</summary>
    public static uint[] Words(Random random, int rows)
    {
        uint[] data = new uint[SpanWords + (rows * RowWords)];
        for (int i = 0; i < 8; i++)
        {
            data[i] = Word(random);
            data[8 + i] = Word(random);
            data[16 + i] = Float(random);
        }

        Span<byte> bytes = MemoryMarshal.AsBytes(data.AsSpan(24, 4));
        for (int i = 0; i < 8; i++)
        {
            bytes[i] = (byte)random.Next(256);
            bytes[8 + i] = (byte)random.Next(2);
        }

        for (int row = 0; row < rows; row++)
        {
            Span<uint> w = data.AsSpan(SpanWords + (row * RowWords), RowWords);
            w[0] = (uint)random.Next(1024);
            w[1] = (uint)random.Next(1024);
            w[2] = random.Next(4) == 0 ? (uint)random.Next() : (uint)random.Next(64);
            for (int i = 3; i < 8; i++)
            {
                w[i] = (uint)(random.Next(3) == 0 ? random.Next(MaxTokens - 3, MaxTokens + 1) : random.Next(2000));
            }

            w[4] = random.Next(5) == 0 ? (uint)-(int)w[4] : w[4];
            w[8] = Float(random);
            for (int i = 9; i < 13; i++)
            {
                w[i] = Word(random);
            }

            w[13] = Float(random);
            w[14] = Float(random);
            w[15] = (uint)random.Next(2);
            w[16] = (uint)random.Next(512);
            w[17] = Float(random);
        }

        return data;
    }

    private static uint Word(Random random) =>
        random.Next(3) switch
        {
            0 => s_words[random.Next(s_words.Length)],
            1 => (uint)random.Next(-100, 100),
            _ => (uint)random.NextInt64(1L << 32),
        };

    private static uint Float(Random random) =>
        BitConverter.SingleToUInt32Bits(
            random.Next(3) switch
            {
                0 => s_floats[random.Next(s_floats.Length)],
                1 => random.Next(-100, 100) / 8f,
                _ => (float)((random.NextDouble() - 0.5) * Math.Pow(2, random.Next(-30, 40))),
            }
        );
}
