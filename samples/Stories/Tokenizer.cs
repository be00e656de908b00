using System.Text;

namespace Stories;

/// <summary>
/// llama2.c's tokenizer: byte pairs merged by score. Its file is int32 longest token, then for each token a float score, int32 length
/// and the bytes.
/// </summary>
internal sealed class Tokenizer
{
    private const int Begin = 1;
    private const int End = 2;

    private readonly byte[][] _pieces;
    private readonly float[] _scores;

    // A byte stands for the char of the same number: tokens may be cut inside a UTF-8 character, so they are not text.
    private readonly Dictionary<string, int> _ids = [];
    private readonly int[] _byteTokens = new int[256];

    private Tokenizer(byte[][] pieces, float[] scores)
    {
        _pieces = pieces;
        _scores = scores;
        Array.Fill(_byteTokens, -1);

        // Control tokens (unknown, begin, end) are no text: a prompt that spells them out does not become them.
        for (int id = End + 1; id < pieces.Length; id++)
        {
            if (TryParseByte(pieces[id], out byte value))
            {
                _byteTokens[value] = id;
                pieces[id] = [value];
            }
            else
            {
                _ids.TryAdd(Encoding.Latin1.GetString(pieces[id]), id);
            }
        }
    }

    /// <summary>Reads a tokenizer of exactly the checkpoint's vocabulary.</summary>
    /// <exception cref="InvalidDataException">The file is damaged or belongs to another model.</exception>
    public static Tokenizer Load(string path, int vocabularySize)
    {
        string file = Path.GetFileName(path);
        using BinaryReader reader = new(File.OpenRead(path));
        Stream stream = reader.BaseStream;
        byte[][] pieces = new byte[vocabularySize][];
        float[] scores = new float[vocabularySize];
        Require(sizeof(int), 0);
        int longest = reader.ReadInt32();
        if (longest < 1 || longest > 1_024)
        {
            throw new InvalidDataException($"{file}: the longest token has {longest} bytes; expected 1 to 1024.");
        }

        for (int id = 0; id < vocabularySize; id++)
        {
            Require(sizeof(float) + sizeof(int), id);
            scores[id] = reader.ReadSingle();
            int length = reader.ReadInt32();
            if (length < 0 || length > longest || !float.IsFinite(scores[id]))
            {
                throw new InvalidDataException(
                    $"{file}: token {id} has {length} bytes and score {scores[id]}; expected 0 to {longest} bytes and a finite score."
                );
            }

            Require(length, id);
            pieces[id] = reader.ReadBytes(length);
        }

        if (stream.Position != stream.Length)
        {
            throw new InvalidDataException(
                $"{file}: the file has {stream.Length} bytes; expected {stream.Position} for the {vocabularySize} tokens of the checkpoint."
            );
        }

        return new Tokenizer(pieces, scores);

        void Require(int bytes, int id)
        {
            if (stream.Length - stream.Position < bytes)
            {
                throw new InvalidDataException(
                    $"{file}: the file ends at byte {stream.Length}, in token {id}; expected the {vocabularySize} tokens of the checkpoint."
                );
            }
        }
    }

    /// <summary>Whether the token ends a story: the end of this one or the beginning of another.</summary>
    public static bool IsEnd(int token) => token is Begin or End;

    /// <summary>The begin token and the tokens of the text.</summary>
    public int[] Encode(string text)
    {
        List<int> tokens = [Begin];
        if (text.Length == 0)
        {
            return [.. tokens];
        }

        // Llama was trained on text that begins with a space.
        foreach (Rune rune in $" {text}".EnumerateRunes())
        {
            AddCharacter(tokens, rune);
        }

        MergePairs(tokens);
        return [.. tokens];
    }

    /// <summary>The bytes that a token adds to the text after the token before it.</summary>
    public ReadOnlySpan<byte> Decode(int previous, int token)
    {
        ReadOnlySpan<byte> piece = _pieces[token];

        // The space that Encode put first.
        return previous == Begin && piece.StartsWith(" "u8) ? piece[1..] : piece;
    }

    private void AddCharacter(List<int> tokens, Rune character)
    {
        Span<byte> utf8 = stackalloc byte[4];
        utf8 = utf8[..character.EncodeToUtf8(utf8)];
        if (_ids.TryGetValue(Encoding.Latin1.GetString(utf8), out int id))
        {
            tokens.Add(id);
            return;
        }

        foreach (byte value in utf8)
        {
            if (_byteTokens[value] < 0)
            {
                throw new InvalidDataException($"The tokenizer has no token for '{character}' and none for its byte 0x{value:X2}.");
            }

            tokens.Add(_byteTokens[value]);
        }
    }

    /// <summary>Joins the neighbours that make the best-scored token, until none make one. Quadratic: a prompt is short.</summary>
    private void MergePairs(List<int> tokens)
    {
        while (true)
        {
            int best = -1;
            int merged = -1;
            for (int i = 1; i + 1 < tokens.Count; i++)
            {
                string pair = Encoding.Latin1.GetString([.. _pieces[tokens[i]], .. _pieces[tokens[i + 1]]]);
                if (_ids.TryGetValue(pair, out int id) && (best < 0 || _scores[id] > _scores[merged]))
                {
                    best = i;
                    merged = id;
                }
            }

            if (best < 0)
            {
                return;
            }

            tokens[best] = merged;
            tokens.RemoveAt(best + 1);
        }
    }

    /// <summary>Reads a byte token, <c>&lt;0x0A&gt;</c>.</summary>
    private static bool TryParseByte(ReadOnlySpan<byte> piece, out byte value)
    {
        value = 0;
        return piece.Length == 6
            && piece.StartsWith("<0x"u8)
            && piece[5] == '>'
            && byte.TryParse(piece[3..5], System.Globalization.NumberStyles.AllowHexSpecifier, null, out value);
    }
}
