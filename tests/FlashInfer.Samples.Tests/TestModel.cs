using System.Text;
using Stories;

namespace FlashInfer.Tests.Samples;

/// <summary>Files of a made-up model in a temporary folder: tests of bad input need no trained one.</summary>
internal sealed class TestModel : IDisposable
{
    /// <summary>dim, hidden_dim, n_layers, n_heads, n_kv_heads, vocab_size, seq_len.</summary>
    public static readonly int[] Header = [16, 24, 2, 4, 2, 300, 32];

    public string Folder { get; } = Directory.CreateTempSubdirectory("flashinfer-stories-").FullName;

    public string CheckpointFile => Path.Combine(Folder, "model.bin");

    public string TokenizerFile => Path.Combine(Folder, "tok.bin");

    /// <summary>Writes a checkpoint of small random weights; <paramref name="header"/> is written whatever it says.</summary>
    public TestModel WithCheckpoint(int[]? header = null, int seed = 1)
    {
        header ??= Header;
        using BinaryWriter writer = new(File.Create(CheckpointFile));
        foreach (int field in header)
        {
            writer.Write(field);
        }

        Random random = new(seed);
        for (long i = Floats(header); i > 0; i--)
        {
            writer.Write((random.NextSingle() - 0.5f) / 2);
        }

        return this;
    }

    /// <summary>Writes a tokenizer: three control tokens, all bytes, then <paramref name="tokens"/>, then fillers.</summary>
    public TestModel WithTokenizer(int vocabulary = 300, params string[] tokens)
    {
        List<string> all = ["<unk>", "\n<s>\n", "\n</s>\n"];
        all.AddRange(Enumerable.Range(0, 256).Select(value => $"<0x{value:X2}>"));
        all.AddRange(tokens);
        all.AddRange(Enumerable.Range(0, Math.Max(0, vocabulary - all.Count)).Select(i => $"[filler {i}]"));
        using BinaryWriter writer = new(File.Create(TokenizerFile));
        writer.Write(16);
        foreach (string token in all)
        {
            byte[] bytes = Encoding.UTF8.GetBytes(token);

            // Earlier tokens score higher, as in a trained tokenizer.
            writer.Write(-(float)all.IndexOf(token));
            writer.Write(bytes.Length);
            writer.Write(bytes);
        }

        return this;
    }

    public Checkpoint LoadCheckpoint() => Checkpoint.Load(CheckpointFile);

    public Tokenizer LoadTokenizer(int vocabulary = 300) => Tokenizer.Load(TokenizerFile, vocabulary);

    public void Dispose() => Directory.Delete(Folder, recursive: true);

    private static long Floats(int[] header)
    {
        (int dim, int hidden, int layers, int heads, int kvHeads) = (header[0], header[1], header[2], header[3], header[4]);
        int vocabulary = Math.Abs(header[5]);
        int headDim = dim / heads;
        int layer = (2 * dim) + (2 * dim * dim) + (2 * dim * kvHeads * headDim) + (3 * dim * hidden);
        return (vocabulary * dim * (header[5] < 0 ? 2 : 1)) + (layers * layer) + dim + (header[6] * headDim);
    }
}
