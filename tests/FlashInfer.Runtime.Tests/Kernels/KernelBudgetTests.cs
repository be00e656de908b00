using System.Globalization;
using System.Runtime.InteropServices;
using System.Text;
using System.Text.RegularExpressions;
using FlashInfer.Compilation;
using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Kernels;

/// <summary>
/// Every legal shape fits every architecture, which is why no rule forbids one: the compiler computes what a block takes of shared memory,
/// from the kernels' own constants and without their code, and their <c>static_assert</c>s are asked on the way.
/// </summary>
public partial class KernelBudgetTests
{
    // What the table begins with in a cubin.
    private const int Mark = 0x7AB1E0F5;

    /// <summary>The most shared memory of a block, of which the system takes 1 KB beside.</summary>
    [SkippableTheory]
    [InlineData("sm_80", 163)]
    [InlineData("sm_86", 99)]
    [InlineData("sm_89", 99)]
    [InlineData("sm_90a", 227)]
    public void Shared_memory_of_every_legal_shape_fits(string architecture, int limitKb)
    {
        KernelCompiler compiler = TestNvrtc.Compiler();
        (string Name, string Text)[] units = [.. Units(architecture == "sm_90a").DistinctBy(unit => unit.Name)];
        CompiledKernel table = compiler.Compile(new TranslationUnit("budgets", Encoding.UTF8.GetBytes(Table(units))), architecture);

        ReadOnlySpan<byte> image = table.Cubin.Span;
        ReadOnlySpan<int> start = [Mark, units.Length];
        int at = image.IndexOf(MemoryMarshal.AsBytes(start));
        Assert.True(at >= 0, "the table is not in the cubin");
        ReadOnlySpan<int> bytes = MemoryMarshal.Cast<byte, int>(image.Slice(at, (units.Length + start.Length) * sizeof(int)))[
            start.Length..
        ];
        for (int i = 0; i < units.Length; i++)
        {
            Assert.True(bytes[i] > 0 && bytes[i] <= limitKb * 1024, $"{units[i].Name} for {architecture}: {bytes[i]} B of {limitKb} KB");
        }
    }

    // What decides on places in shared memory: the head dimension, the size of an element, the columns or rows of a group, for decode
    // KV heads that share a unit, and on Hopper whether the copy engine takes the pages.
    private static IEnumerable<(string Name, string Text)> Units(bool isHopper) =>
        from headDim in AttentionRules.HeadDims
        from kvDtype in (DType[])[DType.BFloat16, DType.Float8E4M3]
        from pageSize in isHopper ? [1, 16] : (int[])[16]
        from groupSize in (int[])[1, 8, 71]
        let shape = new AttentionShape(groupSize, 1, headDim, pageSize, DType.BFloat16, kvDtype, KvLayout.Nhd)
        let shared = shape with
        {
            Heads = 4 * groupSize,
            KvHeads = 4,
        }
        from unit in new[]
        {
            (CudaUnits.DecodeName(shape), CudaUnits.Decode(shape)),
            (CudaUnits.DecodeName(shape, queryTokens: 8), CudaUnits.Decode(shape, queryTokens: 8)),
            (CudaUnits.DecodeName(shared), CudaUnits.Decode(shared)),
            (CudaUnits.PrefillPagedName(shape), CudaUnits.PrefillPaged(shape)),
            (CudaUnits.PrefillPagedName(shape, isChecked: true), CudaUnits.PrefillPaged(shape, isChecked: true)),
            (CudaUnits.PrefillRaggedName(shape), CudaUnits.PrefillRagged(shape)),
            (CudaUnits.PrefillStagedName(shape, isPaged: true), CudaUnits.PrefillStaged(shape, isPaged: true)),
        }.Take(
            !shape.HasPrefill ? 3
            : isHopper ? 7
            : 6
        )
        select unit;

    private static string Table((string Name, string Text)[] units)
    {
        StringBuilder text = new();
        text.Append("#include \"attention/decode.cuh\"\n#include \"attention/prefill.cuh\"\n\n");
        StringBuilder values = new(string.Create(CultureInfo.InvariantCulture, $"{Mark}, {units.Length}"));
        foreach ((string name, string unit) in units)
        {
            string config = Config().Match(unit).Value;
            text.Append(config.Replace("struct Config", $"struct {name}", StringComparison.Ordinal)).Append('\n');
            string kernel = Kernel().Match(unit).Groups[1].Value.Replace("<Config", $"<{name}", StringComparison.Ordinal);
            values.Append(CultureInfo.InvariantCulture, $",\n  flashinfer::{kernel}::info().shared_bytes");
        }

        return text.Append("\nextern \"C\" __constant__ int budgets[] = {").Append(values).Append("};\n").ToString();
    }

    [GeneratedRegex("^struct Config .*?^};", RegexOptions.Singleline | RegexOptions.Multiline)]
    private static partial Regex Config();

    [GeneratedRegex("using Kernel = flashinfer::(.*);")]
    private static partial Regex Kernel();
}
