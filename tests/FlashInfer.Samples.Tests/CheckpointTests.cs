using System.Buffers.Binary;
using Stories;

namespace FlashInfer.Tests.Samples;

public sealed class CheckpointTests
{
    [Fact]
    public void A_tied_checkpoint_is_read()
    {
        using TestModel files = new TestModel().WithCheckpoint();
        Checkpoint model = files.LoadCheckpoint();

        Assert.True(model.IsTied);
        Assert.Same(model.Embedding, model.Classifier);
        Assert.Equal((16, 24, 2, 4, 2, 4), (model.Dim, model.HiddenDim, model.LayerCount, model.Heads, model.KvHeads, model.HeadDim));
        Assert.Equal((300, 32), (model.VocabularySize, model.MaxTokens));
        Assert.Equal((16 * 16, 8 * 16, 24 * 16), (model.Layers[1].Query.Length, model.Layers[1].Key.Length, model.Layers[1].Down.Length));
    }

    [Fact]
    public void A_negative_vocabulary_means_a_classifier_at_the_end_of_the_file()
    {
        using TestModel files = new TestModel().WithCheckpoint([16, 24, 2, 4, 2, -300, 32]);
        Checkpoint model = files.LoadCheckpoint();

        Assert.False(model.IsTied);
        Assert.Equal(300, model.VocabularySize);
        float last = BinaryPrimitives.ReadSingleLittleEndian(File.ReadAllBytes(files.CheckpointFile).AsSpan()[^4..]);
        Assert.Equal(last, model.Classifier[^1]);
    }

    [Theory]
    [InlineData(0, 0, "dim in the header is 0; expected 1 to 65536")]
    [InlineData(0, -16, "dim in the header is -16; expected 1 to 65536")]
    [InlineData(0, int.MaxValue, "dim in the header is 2147483647; expected 1 to 65536")]
    [InlineData(0, 20, "dim is 20; expected an even number of elements for each of the 4 heads, so a multiple of 8")]
    [InlineData(1, 0, "hidden_dim in the header is 0; expected 1 to 262144")]
    [InlineData(2, 1025, "n_layers in the header is 1025; expected 1 to 1024")]
    [InlineData(3, 0, "n_heads in the header is 0; expected 1 to 1024")]
    [InlineData(4, 3, "n_heads is 4; expected a multiple of n_kv_heads, which is 3")]
    [InlineData(4, 8, "n_heads is 4; expected a multiple of n_kv_heads, which is 8")]
    [InlineData(5, 0, "vocab_size in the header is 0; expected 1 to 1048576")]
    [InlineData(5, int.MinValue, "vocab_size in the header is -2147483648; expected 1 to 1048576")]
    [InlineData(6, -1, "seq_len in the header is -1; expected 1 to 1048576")]
    [InlineData(6, 33, "expected ")]
    [InlineData(2, 1024, "expected ")]
    public void A_header_that_cannot_be_is_refused_with_field_value_and_expectation(int field, int value, string message)
    {
        using TestModel files = new TestModel().WithCheckpoint();
        byte[] bytes = File.ReadAllBytes(files.CheckpointFile);
        BinaryPrimitives.WriteInt32LittleEndian(bytes.AsSpan(field * sizeof(int)), value);
        File.WriteAllBytes(files.CheckpointFile, bytes);

        AssertOneSentence(Assert.Throws<InvalidDataException>(files.LoadCheckpoint), message);
    }

    [Theory]
    [InlineData(0, "the file has 0 bytes; expected a header of 28 bytes at least")]
    [InlineData(27, "the file has 27 bytes; expected a header of 28 bytes at least")]
    [InlineData(28, "the file has 28 bytes; expected ")]
    [InlineData(-1, "bytes; expected ")]
    [InlineData(1, "bytes; expected ")]
    public void A_file_too_short_or_too_long_is_refused_with_both_sizes(int length, string message)
    {
        using TestModel files = new TestModel().WithCheckpoint();
        using (FileStream stream = File.OpenWrite(files.CheckpointFile))
        {
            // -1 and 1: one byte less than is right, and one more.
            stream.SetLength(length is -1 or 1 ? stream.Length + length : length);
        }

        AssertOneSentence(Assert.Throws<InvalidDataException>(files.LoadCheckpoint), message);
    }

    [Fact]
    public void A_weight_that_is_no_number_is_refused_with_its_tensor()
    {
        using TestModel files = new TestModel().WithCheckpoint();
        byte[] bytes = File.ReadAllBytes(files.CheckpointFile);
        int firstOfNorms = (7 + (300 * 16)) * sizeof(int);
        BinaryPrimitives.WriteSingleLittleEndian(bytes.AsSpan(firstOfNorms + (16 * sizeof(float))), float.NaN);
        File.WriteAllBytes(files.CheckpointFile, bytes);

        AssertOneSentence(Assert.Throws<InvalidDataException>(files.LoadCheckpoint), "rms_att of layer 1 holds NaN or infinity");
    }

    [Fact]
    public void The_program_prints_the_sentence_and_exits_with_1()
    {
        using TestModel files = new TestModel().WithCheckpoint().WithTokenizer();
        File.WriteAllBytes(files.CheckpointFile, File.ReadAllBytes(files.CheckpointFile)[..1000]);

        SampleResult result = SampleProcess.Run("Stories", "--model", files.Folder, "--cpu");

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.StartsWith("model.bin: the file has 1000 bytes; expected ", result.Errors, StringComparison.Ordinal);
        Assert.Single(result.Errors.Split('\n', StringSplitOptions.RemoveEmptyEntries));
    }

    [Fact]
    public void A_folder_needs_one_checkpoint_and_one_tokenizer()
    {
        using TestModel files = new TestModel().WithCheckpoint();
        string message = Assert.Throws<InvalidDataException>(() => ModelFolder.Find(files.Folder)).Message;
        Assert.EndsWith("has 0 files that may be the tokenizer (tok*.bin); expected 1.", message, StringComparison.Ordinal);

        files.WithTokenizer();
        Assert.Equal((files.CheckpointFile, files.TokenizerFile), ModelFolder.Find(files.Folder));

        File.Copy(files.CheckpointFile, Path.Combine(files.Folder, "other.bin"));
        message = Assert.Throws<InvalidDataException>(() => ModelFolder.Find(files.Folder)).Message;
        Assert.EndsWith(
            "has 2 files that may be the checkpoint (*.bin); expected 1: model.bin, other.bin.",
            message,
            StringComparison.Ordinal
        );
    }

    private static void AssertOneSentence(InvalidDataException exception, string message)
    {
        Assert.StartsWith("model.bin: ", exception.Message, StringComparison.Ordinal);
        Assert.Contains(message, exception.Message, StringComparison.Ordinal);
        Assert.EndsWith(".", exception.Message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', exception.Message);
    }
}
