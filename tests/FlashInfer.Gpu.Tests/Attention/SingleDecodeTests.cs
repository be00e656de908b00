using FlashInfer.Cuda;
using FlashInfer.Tests;

namespace FlashInfer.Gpu.Tests.Attention;

/// <summary>One query token over keys and values in two tensors, by decode's kernel or by prefill's.</summary>
public class SingleDecodeTests
{
    private static readonly int[] s_lengths = [0, 1, 15, 16, 17, 63, 64, 65, 255, 257, 511, 512, 1000, 2048, 20_000];

    [Theory]
    [InlineData(32, 8, 128, DType.BFloat16)]
    [InlineData(8, 8, 64, DType.Float16)]
    [InlineData(7, 1, 96, DType.BFloat16)]
    [InlineData(16, 2, 192, DType.BFloat16)]
    [InlineData(4, 2, 256, DType.Float16)]
    [InlineData(71, 1, 64, DType.BFloat16)] // by prefill's kernel
    public void Agrees_with_the_oracle(int heads, int kvHeads, int headDim, DType dtype)
    {
        using CudaContext context = Gpu.Require();
        string portable = $"sm_{context.ComputeCapabilityMajor}{context.ComputeCapabilityMinor}";
        int seed = Random.Shared.Next();
        foreach (string? architecture in context.Architecture == portable ? [null] : (string?[])[null, portable])
        {
            using Device device = Device.FromCuda(context, null, new DeviceOptions { Architecture = architecture });
            Gpu.Check(
                device,
                Gpu.By(
                    s_lengths.SelectMany(length =>
                    {
                        // What a cache would hold does not matter.
                        DecodeCase one = new(
                            heads,
                            kvHeads,
                            headDim,
                            16,
                            dtype,
                            KvLayout.Nhd,
                            1,
                            [length],
                            null,
                            1,
                            seed++,
                            DType.Float8E4M3
                        );
                        return (DecodeCase[])
                            [
                                one,
                                one with
                                {
                                    Determinism = Determinism.BatchInvariant,
                                    SmScale = 0.2f,
                                },
                                one.With(AttentionOptions.Sinks | AttentionOptions.Alibi),
                                one.With(AttentionOptions.SlidingWindow | AttentionOptions.Rope),
                            ];
                    }),
                    GridApi.Single
                )
            );
        }
    }

    [Fact]
    public void Waits_for_keys_and_values_of_the_launch_before()
    {
        using CudaContext context = Gpu.Require();
        using Device device = Device.FromCuda(context);
        AttentionSpec spec = new(8, 2, 128, 16, DType.BFloat16);
        using SingleDecode first = new(device, spec);
        using SingleDecode second = new(device, spec);
        using DeviceTensor<BFloat16> key = Filled(device, 3000, 2, 1);
        using DeviceTensor<BFloat16> query = Filled(device, 1, 8, 2);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(1, 8, 128);
        using DeviceTensor<BFloat16> expected = device.Allocate<BFloat16>(1, 8, 128);

        // The output of one call, its first 2 heads, is the only key and value of the next.
        TensorView token = device.View<BFloat16>(output.View.Address, [1, 2, 128]);
        for (int i = 0; i < 50; i++)
        {
            first.Run(query.View, key.View.Rows(i, 2900), key.View.Rows(i, 2900), output.View);
            second.Run(query.View, token, token, expected.View);
            BFloat16[] heads = output.ToArray();
            BFloat16[] values = expected.ToArray();
            for (int at = 0; at < values.Length; at++)
            {
                Assert.Equal(heads[(at / 512 * 128) + (at % 128)].Bits, values[at].Bits);
            }
        }
    }

    private static DeviceTensor<BFloat16> Filled(Device device, int rows, int heads, int seed)
    {
        Random random = new(seed);
        DeviceTensor<BFloat16> tensor = device.Allocate<BFloat16>(rows, heads, 128);
        tensor.View.CopyFrom([.. Enumerable.Range(0, rows * heads * 128).Select(_ => (BFloat16)((random.NextSingle() * 2) - 1))]);
        return tensor;
    }
}
