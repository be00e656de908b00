using System.Runtime.CompilerServices;
using System.Runtime.InteropServices;
using FlashInfer.Attention;

namespace FlashInfer.Tests.Variants;

/// <summary>What plans send for a variant, and what they refuse.</summary>
public unsafe class VariantPlanTests
{
    private static readonly AttentionSpec s_spec = new(4, 2, 64, 16, DType.BFloat16, variant: TestVariant.All[^1]);

    [Fact]
    public void Arguments_lie_in_memory_as_kernels_read_them()
    {
        using VariantMemory memory = new();
        VariantWriter writer = memory.Begin();
        writer.Write(7);
        writer.Write([1.5f, 2.5f, 3.5f]);
        writer.Write(true);
        writer.Write(0xFFFF_FFFFu);
        writer.Write(0.5f);
        writer.Write((ReadOnlySpan<bool>)[true, false, true]);
        writer.Write((ReadOnlySpan<byte>)[]);
        memory.End();
        byte[] members = new byte[memory.MemberBytes];
        byte[] elements = new byte[memory.ElementBytes];
        memory.CopyTo(members, elements, 0x1000);

        // A member of 4 bytes, padding, and spans of an address, a length and 4 bytes that mean nothing.
        Assert.Equal(8 + 16 + 12 + 4 + 16 + 16, members.Length);
        Assert.Equal(7, At<int>(0));
        Assert.Equal((0x1000L, 3), (At<long>(8), At<int>(16)));
        Assert.Equal((1, uint.MaxValue, 0.5f), (At<int>(24), At<uint>(28), At<float>(32)));
        Assert.Equal((0x1010L, 3), (At<long>(40), At<int>(48)));
        Assert.Equal(0, At<int>(64));
        Assert.Equal([1.5f, 2.5f, 3.5f], MemoryMarshal.Cast<byte, float>(elements.AsSpan(0, 12)));
        Assert.Equal([1, 0, 1], elements[16..19]);

        VariantReader reader = memory.Reader;
        Assert.Equal(7, reader.ReadInt32());
        Assert.Equal([1.5f, 2.5f, 3.5f], reader.ReadSpan<float>());
        Assert.True(reader.ReadBoolean());
        Assert.Equal(uint.MaxValue, reader.ReadUInt32());
        Assert.Equal(0.5f, reader.ReadSingle());
        Assert.Equal([true, false, true], reader.ReadSpan<bool>());
        Assert.True(reader.ReadSpan<byte>().IsEmpty);

        T At<T>(int offset)
            where T : unmanaged => MemoryMarshal.Read<T>(members.AsSpan(offset));
    }

    [Fact]
    public void A_list_says_whose_its_items_are_and_grows_with_its_arguments()
    {
        using Device device = Device.OpenCpu();
        using PlanList list = new(device, capacity: 10, s_spec.Variant);
        foreach (int length in (int[])[3, 100_000, 5])
        {
            float[] slopes = [.. Enumerable.Range(0, length)];
            list.Take(new VariantArguments<TestArguments>(new TestArguments { Slopes = slopes, Window = length }), default);
            Span<WorkItem> items = list.Begin();
            for (int i = 0; i < 6; i++)
            {
                // Rows of the second and fourth sequence; the first and third have none.
                items[i].Row = i;
            }

            PlannedSequences sequences = new([0, 2, 0, 4], [9, 40, 0, 70], [1, 3, 4, 8], [0, 0, 2, 2]);
            list.Commit(6, default, sequences, null);
            Assert.Equal(6, ((ListHeader*)list.Address)->Count);
            VariantData* data = (VariantData*)list.VariantAddress;
            ItemContext* contexts = (ItemContext*)data->Contexts;
            for (int i = 0; i < 6; i++)
            {
                ItemContext expected =
                    i < 2
                        ? new()
                        {
                            Sequence = 3,
                            FirstRow = 0,
                            QoLen = 2,
                            KvLen = 40,
                        }
                        : new()
                        {
                            Sequence = 8,
                            FirstRow = 2,
                            QoLen = 4,
                            KvLen = 70,
                        };
                Assert.Equal(expected, contexts[i]);
            }

            VariantReader reader = new(list.VariantAddress + Unsafe.SizeOf<VariantData>());
            Assert.Equal(slopes, reader.ReadSpan<float>());
            reader.ReadSingle();
            Assert.Equal(length, reader.ReadInt32());
        }
    }

    [Fact]
    public void A_graph_keeps_the_lists_address()
    {
        using Device device = Device.OpenCpu();
        using PlanList list = new(device, capacity: 10, s_spec.Variant);
        list.Capture();
        list.Take(new VariantArguments<TestArguments>(new TestArguments { Slopes = new float[1000] }), default);
        InvalidOperationException e = Assert.Throws<InvalidOperationException>(() =>
            list.Take(new VariantArguments<TestArguments>(new TestArguments { Slopes = new float[1025] }), default)
        );
        Assert.Contains(
            "come to 4112 bytes, but a captured graph holds the address of a list with room for 4096",
            e.Message,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void A_plan_without_the_variants_arguments_is_refused()
    {
        using Device device = Device.OpenCpu();
        using PagedKvCache cache = new(device, s_spec, 1, 4);
        using BatchDecodeWithPagedKvCache decode = new(cache);
        using BatchPrefillWithPagedKvCache paged = new(cache);
        using BatchPrefillWithRaggedKvCache ragged = new(device, s_spec);
        Sequence sequence = cache.NewSequence();
        cache.BeginForward(sequence, 3);
        foreach (
            Action plan in (Action[])
                [
                    () => decode.Plan([sequence]),
                    () => decode.Plan([sequence], [1]),
                    () => paged.Plan([sequence]),
                    () => paged.Plan([sequence], [3]),
                    () => ragged.Plan([0, 3], [0, 3]),
                ]
        )
        {
            Assert.Contains(
                "takes arguments: Slopes, Temperature, Window, Starts, Groups, Flips. Give them with every plan",
                Assert.Throws<InvalidOperationException>(plan).Message,
                StringComparison.Ordinal
            );
        }

        Assert.Throws<StalePlanException>(() => decode.PlanInfo);
        Assert.Contains(
            "given System.Int32, but the configuration's variant of attention takes other arguments: Slopes",
            Assert.Throws<InvalidOperationException>(() => decode.Plan([sequence], new VariantArguments<int>(1))).Message,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Arguments_for_a_configuration_without_a_variant_are_refused()
    {
        using Device device = Device.OpenCpu();
        using BatchPrefillWithRaggedKvCache ragged = new(device, new AttentionSpec(4, 2, 64, 16, DType.BFloat16));
        Assert.Contains(
            "given System.Single, but the configuration has no variant of attention that takes arguments",
            Assert.Throws<InvalidOperationException>(() => ragged.Plan([0, 3], [0, 3], new VariantArguments<float>(1))).Message,
            StringComparison.Ordinal
        );
    }

    [Fact]
    public void Units_of_a_variant_have_its_text_and_a_name_of_their_own()
    {
        AttentionSpec plain = new(4, 2, 64, 16, DType.BFloat16);
        string[] shared = [plain.AppendUnit.Name, CudaUnits.MergeStatesName(DType.BFloat16)];
        AttentionSpec[] specs =
        [
            plain,
            .. TestVariant.All.Select(variant => new AttentionSpec(4, 2, 64, 16, DType.BFloat16, variant: variant)),
        ];
        (AttentionSpec Spec, TranslationUnit Unit)[] units =
        [
            .. specs.SelectMany(spec =>
                spec.UnitsFor(KernelKinds.All).Where(unit => !shared.Contains(unit.Name)).Select(unit => (spec, unit))
            ),
        ];
        Assert.Equal(units.Length, units.Select(pair => pair.Unit.Name).Distinct().Count());
        foreach ((AttentionSpec spec, TranslationUnit unit) in units.Where(pair => pair.Spec != plain))
        {
            string text = unit.ToString();
            Assert.Matches("_v[0-9a-f]{8}(_q[248])?(_team)?$", unit.Name);
            Assert.Contains($"namespace {{\n\n{spec.Variant!.Cuda}\n\nstruct Config {{", text, StringComparison.Ordinal);
            Assert.Contains("  using Variant = ::Variant;\n", text, StringComparison.Ordinal);
        }

        AttentionSpec including = new(4, 2, 64, 16, DType.BFloat16, variant: new IncludingVariant());
        Assert.Contains(
            "#include \"attention/prefill.cuh\"\n#include \"a.cuh\"\n#include \"b.cuh\"\n\nstatic_assert(",
            including.PrefillPagedUnit.ToString(),
            StringComparison.Ordinal
        );
        Assert.Contains(
            "namespace {\n\nstruct Variant : flashinfer::NoVariant {};\n\nstruct Config {",
            including.PrefillPagedUnit.ToString(),
            StringComparison.Ordinal
        );
        Assert.All(
            specs,
            spec => Assert.Equal((plain.AppendUnit.Name, plain.AppendUnit.ToString()), (spec.AppendUnit.Name, spec.AppendUnit.ToString()))
        );
    }

    private sealed class IncludingVariant()
        : AttentionVariant(VariantHooks.None, "#include \"a.cuh\"\n#include \"b.cuh\"\nstruct Variant : flashinfer::NoVariant {};\n");
}
