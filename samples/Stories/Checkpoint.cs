using System.Buffers.Binary;
using System.Numerics.Tensors;
using System.Runtime.InteropServices;

namespace Stories;

/// <summary>A Llama model in llama2.c's version-0 format: seven int32, then fp32 tensors, each for all layers in turn.</summary>
internal sealed class Checkpoint
{
    private const int HeaderBytes = 7 * sizeof(int);

    private Checkpoint(string file, ReadOnlySpan<byte> header)
    {
        Dim = Field(file, header, 0, "dim", 65_536);
        HiddenDim = Field(file, header, 1, "hidden_dim", 262_144);
        LayerCount = Field(file, header, 2, "n_layers", 1_024);
        Heads = Field(file, header, 3, "n_heads", 1_024);
        KvHeads = Field(file, header, 4, "n_kv_heads", 1_024);

        // A negative vocabulary is the format's way to say that the classifier has weights of its own.
        int vocabulary = BinaryPrimitives.ReadInt32LittleEndian(header[(5 * sizeof(int))..]);
        IsTied = vocabulary > 0;
        VocabularySize = Field(file, header, 5, "vocab_size", 1_048_576, negate: vocabulary < 0);
        MaxTokens = Field(file, header, 6, "seq_len", 1_048_576);
        if (Heads % KvHeads != 0)
        {
            throw new InvalidDataException($"{file}: n_heads is {Heads}; expected a multiple of n_kv_heads, which is {KvHeads}.");
        }

        if (Dim % (2 * Heads) != 0)
        {
            throw new InvalidDataException(
                $"{file}: dim is {Dim}; expected an even number of elements for each of the {Heads} heads, so a multiple of {2 * Heads}."
            );
        }
    }

    public int Dim { get; }

    public int HiddenDim { get; }

    public int LayerCount { get; }

    public int Heads { get; }

    public int KvHeads { get; }

    public int HeadDim => Dim / Heads;

    public int VocabularySize { get; }

    /// <summary>Positions that the model was trained for.</summary>
    public int MaxTokens { get; }

    /// <summary>Whether the token embedding is the classifier too.</summary>
    public bool IsTied { get; }

    /// <summary>[vocabulary, dim].</summary>
    public float[] Embedding { get; private set; } = [];

    public Layer[] Layers { get; private set; } = [];

    /// <summary>[dim].</summary>
    public float[] FinalNorm { get; private set; } = [];

    /// <summary>[vocabulary, dim].</summary>
    public float[] Classifier { get; private set; } = [];

    /// <summary>The size of the file that the header describes.</summary>
    private long ExpectedBytes
    {
        get
        {
            long dim = Dim;
            long attention = 2 * dim * (Heads + KvHeads) * HeadDim;
            long layer = (2 * dim) + attention + (3 * dim * HiddenDim);
            long classifier = IsTied ? 0 : VocabularySize * dim;
            long rope = (long)MaxTokens * HeadDim;
            return HeaderBytes + (sizeof(float) * ((VocabularySize * dim) + (LayerCount * layer) + dim + rope + classifier));
        }
    }

    /// <summary>Reads a checkpoint; a file that is not exactly what its header says is refused before anything is allocated.</summary>
    /// <exception cref="InvalidDataException">The file is damaged or no such checkpoint.</exception>
    public static Checkpoint Load(string path)
    {
        string file = Path.GetFileName(path);
        using FileStream stream = File.OpenRead(path);
        Span<byte> header = stackalloc byte[HeaderBytes];
        if (stream.Length < HeaderBytes)
        {
            throw new InvalidDataException(
                $"{file}: the file has {stream.Length} bytes; expected a header of {HeaderBytes} bytes at least."
            );
        }

        stream.ReadExactly(header);
        Checkpoint model = new(file, header);
        if (stream.Length != model.ExpectedBytes)
        {
            throw new InvalidDataException(
                $"{file}: the file has {stream.Length} bytes; expected {model.ExpectedBytes} for the model that its header describes."
            );
        }

        model.ReadTensors(file, stream);
        return model;
    }

    private void ReadTensors(string file, FileStream stream)
    {
        int kvDim = KvHeads * HeadDim;
        Embedding = Read("token embedding", VocabularySize, Dim);
        float[][] attentionNorm = ReadLayers("rms_att", 1, Dim);
        float[][] query = ReadLayers("wq", Dim, Dim);
        float[][] key = ReadLayers("wk", kvDim, Dim);
        float[][] value = ReadLayers("wv", kvDim, Dim);
        float[][] output = ReadLayers("wo", Dim, Dim);
        float[][] feedForwardNorm = ReadLayers("rms_ffn", 1, Dim);
        float[][] gate = ReadLayers("w1", HiddenDim, Dim);
        float[][] down = ReadLayers("w2", Dim, HiddenDim);
        float[][] up = ReadLayers("w3", HiddenDim, Dim);
        FinalNorm = Read("rms_final", 1, Dim);

        // Two tables of rotation angles follow, which everybody computes instead.
        stream.Seek((long)MaxTokens * HeadDim * sizeof(float), SeekOrigin.Current);
        Classifier = IsTied ? Embedding : Read("classifier", VocabularySize, Dim);
        Layers = new Layer[LayerCount];
        for (int i = 0; i < LayerCount; i++)
        {
            Layers[i] = new(attentionNorm[i], query[i], key[i], value[i], output[i], feedForwardNorm[i], gate[i], up[i], down[i]);
        }

        float[][] ReadLayers(string tensor, int rows, int columns)
        {
            float[][] layers = new float[LayerCount][];
            for (int i = 0; i < layers.Length; i++)
            {
                layers[i] = Read($"{tensor} of layer {i}", rows, columns);
            }

            return layers;
        }

        float[] Read(string tensor, int rows, int columns)
        {
            long count = (long)rows * columns;
            if (count * sizeof(float) > int.MaxValue)
            {
                throw new InvalidDataException($"{file}: {tensor} has {count} elements; this sample reads tensors of less than 2 GB.");
            }

            float[] values = new float[count];
            stream.ReadExactly(MemoryMarshal.AsBytes(values.AsSpan()));
            return TensorPrimitives.IsFiniteAll<float>(values)
                ? values
                : throw new InvalidDataException($"{file}: {tensor} holds NaN or infinity; expected finite weights only.");
        }
    }

    private static int Field(string file, ReadOnlySpan<byte> header, int index, string name, int limit, bool negate = false)
    {
        long stored = BinaryPrimitives.ReadInt32LittleEndian(header[(index * sizeof(int))..]);
        long value = negate ? -stored : stored;
        return value >= 1 && value <= limit
            ? (int)value
            : throw new InvalidDataException(
                $"{file}: {name} in the header is {stored}; expected 1 to {limit}, so this is no llama2.c version-0 checkpoint."
            );
    }

    /// <summary>The weights of one layer; matrices are [outputs, inputs].</summary>
    internal sealed record Layer(
        float[] AttentionNorm,
        float[] Query,
        float[] Key,
        float[] Value,
        float[] Output,
        float[] FeedForwardNorm,
        float[] Gate,
        float[] Up,
        float[] Down
    );
}
