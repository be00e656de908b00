using System.Text;

namespace FlashInfer.Generators.Emit;

/// <summary>Indented text with <c>\n</c> line ends. Takes strings only: numbers are formatted where the culture is known.</summary>
internal sealed class CodeWriter
{
    private const int IndentSize = 4;
    private readonly StringBuilder _text = new();
    private int _indent;

    /// <summary>Writes a block of lines at the current depth; its blank lines stay free of trailing spaces.</summary>
    public void Block(string lines)
    {
        foreach (string line in lines.Split('\n'))
        {
            Line(line.TrimEnd('\r'));
        }
    }

    /// <summary>Writes one line at the current depth.</summary>
    public void Line(string line = "")
    {
        if (line.Length > 0)
        {
            _text.Append(' ', _indent * IndentSize).Append(line);
        }

        _text.Append('\n');
    }

    /// <summary>Opens a brace and goes one level in.</summary>
    public void Open()
    {
        Line("{");
        _indent++;
    }

    /// <summary>Goes one level out and closes the brace.</summary>
    public void Close()
    {
        _indent--;
        Line("}");
    }

    /// <inheritdoc/>
    public override string ToString() => _text.ToString();
}
