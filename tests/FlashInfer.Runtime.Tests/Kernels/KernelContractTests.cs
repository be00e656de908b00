using System.Reflection;
using System.Runtime.CompilerServices;
using System.Text;
using System.Text.RegularExpressions;
using FlashInfer.Attention;

namespace FlashInfer.Tests.Kernels;

/// <summary>Host and kernels agree on every structure that they share: the members, their order, their sizes, and the version.</summary>
public partial class KernelContractTests
{
    private static readonly Dictionary<string, int> s_sizes = new()
    {
        ["u16"] = 2,
        ["i32"] = 4,
        ["u32"] = 4,
        ["float"] = 4,
        ["i64"] = 8,
        ["u64"] = 8,
        ["TensorMap"] = 128,
    };

    public static TheoryData<string, int> Shared =>
        new()
        {
            { nameof(ListHeader), Unsafe.SizeOf<ListHeader>() },
            { nameof(WorkItem), Unsafe.SizeOf<WorkItem>() },
            { nameof(ItemContext), Unsafe.SizeOf<ItemContext>() },
            { nameof(VariantData), Unsafe.SizeOf<VariantData>() },
            { nameof(DecodeParams), Unsafe.SizeOf<DecodeParams>() },
            { nameof(PrefillParams), Unsafe.SizeOf<PrefillParams>() },
            { nameof(AppendItem), Unsafe.SizeOf<AppendItem>() },
            { nameof(AppendParams), Unsafe.SizeOf<AppendParams>() },
            { nameof(StageItem), Unsafe.SizeOf<StageItem>() },
            { nameof(StageParams), Unsafe.SizeOf<StageParams>() },
            { nameof(TensorMap), Unsafe.SizeOf<TensorMap>() },
            { nameof(PageTableUpdate), Unsafe.SizeOf<PageTableUpdate>() },
            { nameof(PageTableParams), Unsafe.SizeOf<PageTableParams>() },
            { nameof(MergeStatesParams), Unsafe.SizeOf<MergeStatesParams>() },
            { nameof(KernelInfo), Unsafe.SizeOf<KernelInfo>() },
            { nameof(KernelFault), Unsafe.SizeOf<KernelFault>() },
        };

    [Theory]
    [MemberData(nameof(Shared))]
    public void Members_of_a_shared_structure_are_the_same_in_the_same_order(string name, int bytes)
    {
        if (name == nameof(TensorMap))
        {
            // Opaque, and an array on both sides.
            Assert.Contains("u64 opaque[16];", Header("core/params.cuh"), StringComparison.Ordinal);
            Assert.Equal(128, bytes);
            return;
        }

        (string Name, int Bytes)[] kernel = Members(Header("core/params.cuh"), name);
        Type host = typeof(ListHeader).Assembly.GetType($"FlashInfer.Attention.{name}", throwOnError: true)!;
        (string Name, int Bytes)[] mine =
        [
            .. host.GetFields(BindingFlags.Instance | BindingFlags.Public | BindingFlags.NonPublic)
                .OrderBy(field => field.MetadataToken)
                .Select(field => (Pascal(field.Name), SizeOf(field.FieldType))),
        ];

        Assert.Equal(System.Runtime.InteropServices.LayoutKind.Sequential, host.StructLayoutAttribute!.Value);
        Assert.Equal(kernel, mine);
        // No padding on either side, so that order and sizes are the whole layout.
        Assert.Equal(bytes, kernel.Sum(member => member.Bytes));
        int offset = 0;
        foreach ((string member, int size) in kernel)
        {
            Assert.True(offset % Math.Min(size, 64) == 0, $"{name}.{member} lies at {offset}, which is no multiple of its {size} bytes");
            offset += size;
        }
    }

    [Fact]
    public void Every_structure_of_the_header_is_compared()
    {
        string[] declared = [.. Struct().Matches(Header("core/params.cuh")).Select(match => match.Groups[1].Value).Order()];

        Assert.Equal(declared, Shared.Select(row => (string)row[0]).Order());
    }

    [Fact]
    public void The_contract_version_is_the_same()
    {
        Match match = Regex.Match(Header("core/types.cuh"), @"kAbiVersion = (\d+)");

        Assert.True(match.Success);
        Assert.Equal(CudaUnits.AbiVersion, int.Parse(match.Groups[1].Value));
    }

    private static string Header(string name)
    {
        Assembly assembly = typeof(AttentionSpec).Assembly;
        string resource = assembly.GetManifestResourceNames().Single(resource => resource.Replace('\\', '/') == name);
        using StreamReader reader = new(assembly.GetManifestResourceStream(resource)!, Encoding.UTF8);
        return reader.ReadToEnd();
    }

    private static (string Name, int Bytes)[] Members(string header, string name)
    {
        Match body = Regex.Match(
            header,
            $@"^struct (?:alignas\(\d+\) )?{name} \{{\n(.*?)^\}};",
            RegexOptions.Singleline | RegexOptions.Multiline
        );
        Assert.True(body.Success, $"core/params.cuh has no struct {name}");
        List<(string, int)> members = [];
        foreach (string line in Comment().Replace(body.Groups[1].Value, "").Split('\n', StringSplitOptions.TrimEntries))
        {
            if (line.Length > 0)
            {
                Match member = Member().Match(line);
                Assert.True(member.Success, $"'{line}' of {name} is no member that this test understands");
                string type = member.Groups[1].Value;
                int bytes = type.EndsWith('*') ? 8 : s_sizes[type];
                members.Add((Pascal(member.Groups[2].Value), bytes));
            }
        }

        return [.. members];
    }

    /// <summary>query_row_stride and QueryRowStride, reserved and _reserved are the same member.</summary>
    private static string Pascal(string name) =>
        string.Concat(name.Split('_', StringSplitOptions.RemoveEmptyEntries).Select(word => char.ToUpperInvariant(word[0]) + word[1..]));

    private static int SizeOf(Type type) =>
        type == typeof(nint) || type == typeof(long) ? 8
        : type == typeof(TensorMap) ? 128
        : type == typeof(ushort) ? 2
        : type.IsEnum ? 4
        : type == typeof(int) || type == typeof(float) ? 4
        : throw new ArgumentException($"{type} is no type that kernels share.");

    [GeneratedRegex(@"^struct (?:alignas\(\d+\) )?(\w+) \{", RegexOptions.Multiline)]
    private static partial Regex Struct();

    [GeneratedRegex(@"//.*$", RegexOptions.Multiline)]
    private static partial Regex Comment();

    [GeneratedRegex(@"\A(?:const )?(\w+\*?) (\w+);\z")]
    private static partial Regex Member();
}
