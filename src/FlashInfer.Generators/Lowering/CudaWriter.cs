using System.Text;

namespace FlashInfer.Generators.Lowering;

/// <summary>Indented CUDA, braces at the ends of lines, as in the kernels.</summary>
/// <param name="indent">The depth of its first line.</param>
internal sealed class CudaWriter(int indent)
{
    private const int IndentSize = 2;
    private readonly StringBuilder _text = new();
    private int _indent = indent;

    public void Line(string line = "") => _text.Append(' ', line.Length > 0 ? _indent * IndentSize : 0).Append(line).Append('\n');

    /// <summary>Writes the head of a block and goes one level in.</summary>
    public void Open(string head)
    {
        Line(head + " {");
        _indent++;
    }

    /// <summary>Goes one level out and ends the block.</summary>
    public void Close(string end = "}")
    {
        _indent--;
        Line(end);
    }

    /// <summary>A writer for what lies one level deeper.</summary>
    public CudaWriter Inner() => new(_indent + 1);

    /// <summary>Adds what another writer wrote.</summary>
    public void Append(CudaWriter other) => _text.Append(other._text);

    public override string ToString() => _text.ToString();
}
