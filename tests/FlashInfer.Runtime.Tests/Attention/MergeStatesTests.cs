using FlashInfer.Tests.BadInput;

namespace FlashInfer.Tests.Attention;

public class MergeStatesTests
{
    [Fact]
    public void Random_states_merge_as_the_definition_says()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
        int seed = Random.Shared.Next();
        for (int i = 0; i < 100; i++)
        {
            MergeScenario.Check(device, seed + i);
        }
    }

    [Fact]
    public void Many_rows_are_shared_by_all_threads()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 3 });
        const int Rows = 500;
        using DeviceTensor<float> outputs = device.Allocate<float>(2, Rows, 4, 64);
        using DeviceTensor<float> lses = device.Allocate<float>(2, Rows, 4);
        outputs.View.CopyFrom([.. Enumerable.Range(0, 2 * Rows * 4 * 64).Select(i => i < Rows * 4 * 64 ? 1f : 3f)]);
        lses.View.CopyFrom(new float[2 * Rows * 4]);
        TensorView<float> first = device.View<float>(outputs.View.Address, [Rows, 4, 64]);
        TensorView<float> lse = device.View<float>(lses.View.Address, [Rows, 4]);
        TensorView<float> second = device.View<float>(outputs.View.Address + (Rows * 4 * 64 * sizeof(float)), [Rows, 4, 64]);
        TensorView<float> secondLse = device.View<float>(lses.View.Address + (Rows * 4 * sizeof(float)), [Rows, 4]);

        AttentionStates.MergeStateInPlace(first, lse, second, secondLse);

        Assert.All(first.ToArray(), value => Assert.Equal(2, value));
        Assert.All(lse.ToArray(), value => Assert.Equal(1, value));
    }

    [Fact]
    public void An_indptr_beyond_the_states_reads_nothing_there()
    {
        using Device device = Device.OpenCpu();
        using DeviceTensor<float> outputs = device.Allocate<float>(2, 1, 8);
        using DeviceTensor<float> lses = device.Allocate<float>(2, 1);
        using DeviceTensor<int> indptr = device.Allocate<int>(4);
        using DeviceTensor<float> output = device.Allocate<float>(3, 1, 8);
        using DeviceTensor<float> lse = device.Allocate<float>(3, 1);
        outputs.View.CopyFrom([.. Enumerable.Repeat(1f, 8), .. Enumerable.Repeat(3f, 8)]);
        lses.View.CopyFrom(new float[2]);
        indptr.View.CopyFrom([-1000, 1, 9, 4]);

        AttentionStates.MergeRaggedStates(outputs, lses, indptr, output, lse);

        Assert.Equal([1f, 3f, 0f], Enumerable.Range(0, 3).Select(row => output.View.ToArray()[row * 8]));
        Assert.Equal([0f, 0f, float.NegativeInfinity], lse.View.ToArray());
    }

    [Fact]
    public void What_can_not_be_merged_is_refused_by_name()
    {
        using Device device = Device.OpenCpu();
        using Device other = Device.OpenCpu();
        using DeviceTensor<Half> output = device.Allocate<Half>(3, 2, 64);
        using DeviceTensor<float> lse = device.Allocate<float>(3, 2);
        using DeviceTensor<Half> fewer = device.Allocate<Half>(2, 2, 64);
        using DeviceTensor<BFloat16> brain = device.Allocate<BFloat16>(3, 2, 64);
        using DeviceTensor<int> numbers = device.Allocate<int>(3, 2, 64);
        using DeviceTensor<Half> odd = device.Allocate<Half>(3, 2, 12);
        using DeviceTensor<Half> foreign = other.Allocate<Half>(3, 2, 64);
        using DeviceTensor<Half> none = device.Allocate<Half>(3, 0, 2, 64);
        using DeviceTensor<float> noLse = device.Allocate<float>(3, 0, 2);
        TensorView<Half> loose = device.View<Half>(output.View.Address, [3, 2, 32], [128, 64, 2]);
        TensorView<Half> overlapping = device.View<Half>(output.View.Address, [3, 2, 64], [64, 64, 1]);

        Refused.Argument(
            "firstOutput",
            "no tensor; expected Float16, BFloat16 or Float32 [rows, heads",
            () => Merge(default, lse, output, lse, output)
        );
        Refused.Argument("firstOutput", "Int32[3, 2, 64]", () => Merge(numbers, lse, output, lse, output));
        Refused.Argument("firstOutput", "12 elements; expected a multiple of 8", () => Merge(odd, lse, odd, lse, odd));
        Refused.Argument("firstOutput", "strides [128, 64, 2]", () => Merge(loose, lse, output, lse, output));
        Refused.Argument("firstLse", "no tensor; expected Float32[3, 2]", () => Merge(output, default, output, lse, output));
        Refused.Argument("secondOutput", "Float16[2, 2, 64]; expected Float16[3, 2, 64]", () => Merge(output, lse, fewer, lse, output));
        Refused.Argument("secondOutput", "BFloat16[3, 2, 64]; expected Float16", () => Merge(output, lse, brain, lse, output));
        Refused.Argument("secondOutput", "allocate it on the firstOutput's device", () => Merge(output, lse, foreign, lse, output));
        Refused.Argument(
            "output",
            "strides [64, 64, 1], so that rows or heads overlap",
            () => Merge(output, lse, output, lse, overlapping)
        );
        Refused.Argument("outputs", "[rows, states, heads, headDim]", () => AttentionStates.MergeStates(output, lse, output));
        Refused.Argument("outputs", "expected one state or more", () => AttentionStates.MergeStates(none, noLse, output));
        using DeviceTensor<int> indptr = device.Allocate<int>(4);
        TensorView<int> gaps = device.View<int>(indptr.View.Address, [2], [2]);
        Refused.Argument("outputs", "Float16[3, 0, 2, 64]", () => AttentionStates.MergeRaggedStates(none, lse, indptr, output));
        Refused.Argument("lses", "expected Float32[3, 2]", () => AttentionStates.MergeRaggedStates(output, noLse, indptr, output));
        Refused.Argument(
            "indptr",
            "no tensor; expected Int32 [rows + 1]",
            () => AttentionStates.MergeRaggedStates(output, lse, default, output)
        );
        Refused.Argument("indptr", "expected Int32 [rows + 1]", () => AttentionStates.MergeRaggedStates(output, lse, lse, output));
        Refused.Argument("indptr", "has gaps between", () => AttentionStates.MergeRaggedStates(output, lse, gaps, output));
        Refused.Argument("output", "expected Float16[3, 2, 64]", () => AttentionStates.MergeRaggedStates(output, lse, indptr, fewer));
        Refused.Argument("mask", "expected Int32[3]", () => AttentionStates.MergeStateInPlace(output, lse, output, lse, lse));

        static void Merge(TensorView first, TensorView firstLse, TensorView second, TensorView secondLse, TensorView output) =>
            AttentionStates.MergeState(first, firstLse, second, secondLse, output);
    }
}
