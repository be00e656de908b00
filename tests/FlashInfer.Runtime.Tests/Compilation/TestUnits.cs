using System.Text;
using FlashInfer.Compilation;

namespace FlashInfer.Runtime.Tests.Compilation;

internal static class TestUnits
{
    /// <summary>A unit of one tiny kernel; <paramref name="factor"/> makes units that differ.</summary>
    public static TranslationUnit Tiny(int factor = 2, string name = "fi_tiny") =>
        Unit(name, $"extern \"C\" __global__ void {name}(float* x) {{ x[threadIdx.x] *= {factor}; }}");

    public static TranslationUnit Unit(string name, string source) => new(name, Encoding.UTF8.GetBytes(source));

    public static KernelHeaders Headers(params ReadOnlySpan<(string Name, string Text)> headers)
    {
        Dictionary<string, byte[]> texts = [];
        foreach ((string name, string text) in headers)
        {
            texts[name] = Encoding.UTF8.GetBytes(text);
        }

        return new KernelHeaders(texts);
    }
}
