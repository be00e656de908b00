using System.Text;
using Stories;

namespace FlashInfer.Tests.Samples;

public sealed class TokenizerTests
{
    private const int Begin = 1;
    private const int FirstByte = 3;
    private const int FirstToken = 259;

    [Fact]
    public void An_empty_text_is_the_begin_token_alone()
    {
        using TestModel files = new TestModel().WithTokenizer(300, " ", "a");

        Assert.Equal([Begin], files.LoadTokenizer().Encode(""));
    }

    [Fact]
    public void Pairs_merge_in_the_order_of_their_scores()
    {
        // "bc" scores higher than "ab", so a-b-c becomes a-bc, and then nothing matches.
        using TestModel files = new TestModel().WithTokenizer(300, " ", "a", "b", "c", "bc", "ab");

        Assert.Equal([Begin, FirstToken, FirstToken + 1, FirstToken + 4], files.LoadTokenizer().Encode("abc"));
    }

    [Fact]
    public void Of_equal_pairs_the_leftmost_merges_first()
    {
        using TestModel files = new TestModel().WithTokenizer(300, " ", "a", "aa");

        Assert.Equal([Begin, FirstToken, FirstToken + 2, FirstToken + 1], files.LoadTokenizer().Encode("aaa"));
    }

    [Fact]
    public void A_character_without_a_token_becomes_its_bytes()
    {
        using TestModel files = new TestModel().WithTokenizer(300, " ", "é");

        Assert.Equal(
            [Begin, FirstToken, FirstToken + 1, FirstByte + 0xE2, FirstByte + 0x82, FirstByte + 0xAC],
            files.LoadTokenizer().Encode("é€")
        );
    }

    [Theory]
    [InlineData("<s>")]
    [InlineData("\n<s>\n")]
    [InlineData("<0x41>")]
    [InlineData("<unk>")]
    public void Text_that_looks_like_a_special_token_stays_text(string text)
    {
        using TestModel files = new TestModel().WithTokenizer(300, " ");
        Tokenizer tokenizer = files.LoadTokenizer();
        int[] tokens = tokenizer.Encode(text);

        Assert.Equal(text.Length + 2, tokens.Length);
        Assert.Equal(text, Decode(tokenizer, tokens));
    }

    [Fact]
    public void Only_the_space_that_encoding_added_is_taken_off()
    {
        using TestModel files = new TestModel().WithTokenizer(300, " ", "a", " a");
        Tokenizer tokenizer = files.LoadTokenizer();

        Assert.Equal("a a", Decode(tokenizer, tokenizer.Encode("a a")));
        Assert.Equal(" a", Decode(tokenizer, tokenizer.Encode(" a")));
        Assert.Equal("a a", Decode(tokenizer, [Begin, FirstToken + 2, FirstToken + 2]));
    }

    [SkippableTheory]
    [InlineData("Once upon a time, there was a little girl named Lily.")]
    [InlineData(" leading and  double   spaces ")]
    [InlineData("\"Quoted\", she said!\nNew line\ttab")]
    [InlineData("Grüße, 日本語, 🦊, \u0001 and \u00FF")]
    [InlineData("x")]
    [InlineData(" ")]
    public void Encoding_and_decoding_give_the_text_back(string text)
    {
        Tokenizer tokenizer = Tokenizer.Load(ModelData.Tokenizer, 512);

        Assert.Equal(text, Decode(tokenizer, tokenizer.Encode(text)));
    }

    [SkippableFact]
    public void The_trained_tokenizer_uses_its_long_tokens()
    {
        Tokenizer tokenizer = Tokenizer.Load(ModelData.Tokenizer, 512);
        const string Text = "Once upon a time, there was a little girl";

        Assert.InRange(tokenizer.Encode(Text).Length, 5, Text.Length / 2);
    }

    [SkippableFact]
    public void Random_texts_come_back_whole()
    {
        Tokenizer tokenizer = Tokenizer.Load(ModelData.Tokenizer, 512);
        int seed = Random.Shared.Next();
        Random random = new(seed);
        for (int round = 0; round < 200; round++)
        {
            StringBuilder text = new();
            for (int i = random.Next(1, 40); i > 0; i--)
            {
                int codepoint = random.Next(4) == 0 ? random.Next(0x11_0000) : random.Next(0x80);
                text.Append(Rune.IsValid(codepoint) ? new Rune(codepoint).ToString() : "a");
            }

            string expected = text.ToString();
            string actual = Decode(tokenizer, tokenizer.Encode(expected));
            Assert.True(expected == actual, $"Seed {seed}, round {round}: '{expected}' came back as '{actual}'.");
        }
    }

    [Theory]
    [InlineData(299, "the file has ")]
    [InlineData(301, "the file ends at byte ")]
    public void A_tokenizer_of_another_size_is_refused(int vocabulary, string message)
    {
        using TestModel files = new TestModel().WithTokenizer();

        AssertOneSentence(files, vocabulary, message, $"expected");
        AssertOneSentence(files, vocabulary, message, $"{vocabulary} tokens of the checkpoint");
    }

    [Theory]
    [InlineData(0)]
    [InlineData(3)]
    [InlineData(5)]
    [InlineData(1000)]
    public void A_truncated_tokenizer_is_refused(int length)
    {
        using TestModel files = new TestModel().WithTokenizer();
        File.WriteAllBytes(files.TokenizerFile, File.ReadAllBytes(files.TokenizerFile)[..length]);

        AssertOneSentence(files, 300, $"the file ends at byte {length}, in token", "expected the 300 tokens of the checkpoint");
    }

    [Theory]
    [InlineData(0, -1, "the longest token has -1 bytes; expected 1 to 1024")]
    [InlineData(0, 100_000, "the longest token has 100000 bytes; expected 1 to 1024")]
    [InlineData(8, 17, "token 0 has 17 bytes")]
    [InlineData(8, -5, "token 0 has -5 bytes")]
    [InlineData(4, unchecked((int)0x7FC0_0000), "score NaN; expected 0 to 16 bytes and a finite score")]
    public void A_damaged_tokenizer_is_refused(int offset, int value, string message)
    {
        using TestModel files = new TestModel().WithTokenizer();
        byte[] bytes = File.ReadAllBytes(files.TokenizerFile);
        BitConverter.TryWriteBytes(bytes.AsSpan(offset), value);
        File.WriteAllBytes(files.TokenizerFile, bytes);

        AssertOneSentence(files, 300, message, "expected");
    }

    private static void AssertOneSentence(TestModel files, int vocabulary, params string[] parts)
    {
        string message = Assert.Throws<InvalidDataException>(() => files.LoadTokenizer(vocabulary)).Message;
        Assert.StartsWith("tok.bin: ", message, StringComparison.Ordinal);
        Assert.All(parts, part => Assert.Contains(part, message, StringComparison.Ordinal));
        Assert.EndsWith(".", message, StringComparison.Ordinal);
        Assert.DoesNotContain('\n', message);
    }

    private static string Decode(Tokenizer tokenizer, int[] tokens)
    {
        List<byte> bytes = [];
        for (int i = 1; i < tokens.Length; i++)
        {
            bytes.AddRange(tokenizer.Decode(tokens[i - 1], tokens[i]));
        }

        return Encoding.UTF8.GetString([.. bytes]);
    }
}
