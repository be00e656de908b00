namespace FlashInfer.Tests.Attention;

/// <summary>Attention of one sequence without a plan, on the CPU device.</summary>
public class SingleTests
{
    private static readonly AttentionSpec s_spec = new(4, 2, 64, 16, DType.BFloat16);

    [Theory]
    [InlineData(DType.Float16)]
    [InlineData(DType.BFloat16)]
    public void Agrees_with_the_oracle(DType dtype)
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 3 });
        int seed = Random.Shared.Next();
        foreach ((int qoLen, int kvLen) in ((int, int)[])[(1, 1), (17, 17), (3, 130), (70, 65), (5, 0), (0, 5), (2, 2500)])
        {
            foreach ((int heads, int headDim, int valueDim) in ((int, int, int)[])[(4, 64, 64), (2, 192, 128), (7, 96, 96)])
            {
                DecodeCase one = new(heads, heads == 4 ? 2 : 1, headDim, 16, dtype, KvLayout.Nhd, 1, [kvLen], null, 1, seed++)
                {
                    QueryTokens = [qoLen],
                    ValueDim = valueDim,
                };
                PrefillScenario.CheckSingle(device, one);
                PrefillScenario.CheckSingle(device, one with { Causal = false, SmScale = 0.2f });
                PrefillScenario.CheckSingle(device, one.With(AttentionOptions.CustomMask | AttentionOptions.LogitsSoftCap));
                DecodeCase token = one with { QueryTokens = null };
                PrefillScenario.CheckSingle(device, token);
                PrefillScenario.CheckSingle(device, token.With(AttentionOptions.Sinks | AttentionOptions.Alibi));
            }
        }
    }

    [Fact]
    public void A_workspace_is_that_of_the_batch_of_one()
    {
        using Device device = Device.OpenCpu();
        using SinglePrefill prefill = new(device, s_spec, maxQueryTokens: 100);
        using SingleDecode decode = new(device, s_spec);
        using BatchPrefillWithRaggedKvCache batch = new(device, s_spec, maxSequences: 1, maxQueryTokens: 100);

        Assert.Equal(batch.WorkspaceBytes, prefill.WorkspaceBytes);
        Assert.True(decode.WorkspaceBytes > 0);
    }

    [Fact]
    public void Decode_takes_a_token_without_its_own_dimension()
    {
        using Device device = Device.OpenCpu();
        using DeviceTensor<BFloat16> key = Draw(device, 40, 2, 64);
        using DeviceTensor<BFloat16> query = Draw(device, 1, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(1, 4, 64);
        using DeviceTensor<BFloat16> flat = device.Allocate<BFloat16>(4, 64);
        using DeviceTensor<float> lse = device.Allocate<float>(1, 4);
        using DeviceTensor<float> flatLse = device.Allocate<float>(4);
        using SingleDecode decode = new(device, s_spec);
        decode.Run(query.View, key.View, key.View, output.View, lse.View);
        decode.Run(device.View<BFloat16>(query.View.Address, [4, 64]), key.View, key.View, flat.View, flatLse.View);
        Assert.Equal(output.ToArray().Select(x => x.Bits), flat.ToArray().Select(x => x.Bits));
        Assert.Equal(lse.ToArray(), flatLse.ToArray());
        Assert.Contains("1 sequence", decode.Explain(), StringComparison.Ordinal);
    }

    [Fact]
    public void Calls_of_the_same_lengths_allocate_nothing()
    {
        using Device device = Device.OpenCpu(new DeviceOptions { CpuThreads = 1 });
        using DeviceTensor<BFloat16> key = Draw(device, 30, 2, 64);
        using DeviceTensor<BFloat16> query = Draw(device, 5, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(5, 4, 64);
        using SinglePrefill prefill = new(device, s_spec, maxQueryTokens: 8);
        using SingleDecode decode = new(device, s_spec);
        long least = long.MaxValue;
        for (int i = 0; i < 20; i++)
        {
            long before = GC.GetAllocatedBytesForCurrentThread();
            prefill.Run(query.View, key.View, key.View, output.View);
            prefill.Run(query.View, key.View, key.View, output.View, smScale: 0.5f, causal: false);
            decode.Run(query.View.Rows(0, 1), key.View, key.View, output.View.Rows(0, 1));
            decode.Run(query.View.Rows(0, 1), key.View.Rows(0, 7), key.View.Rows(0, 7), output.View.Rows(0, 1));
            least = Math.Min(least, GC.GetAllocatedBytesForCurrentThread() - before);
        }

        Assert.Equal(0, least);
    }

    [Fact]
    public void What_does_not_fit_is_refused_and_the_next_call_works()
    {
        using Device device = Device.OpenCpu();
        using DeviceTensor<BFloat16> key = Draw(device, 30, 2, 64);
        using DeviceTensor<BFloat16> query = Draw(device, 5, 4, 64);
        using DeviceTensor<BFloat16> output = device.Allocate<BFloat16>(5, 4, 64);
        using DeviceTensor<BFloat16> other = device.Allocate<BFloat16>(5, 4, 96);
        SinglePrefill prefill = new(device, s_spec, maxQueryTokens: 4);
        using SingleDecode decode = new(device, s_spec);
        Refused(
            "query",
            "query has 5 tokens; expected at most 4. The constructor of SinglePrefill takes a larger maxQueryTokens.",
            () => prefill.Run(query.View, key.View, key.View, output.View)
        );
        using SinglePrefill one = new(device, s_spec, maxQueryTokens: 1);
        Refused(
            "query",
            "expected at most 1. The constructor of SinglePrefill",
            () => one.Run(query.View, key.View, key.View, output.View)
        );
        Refused(
            "query",
            "query has 5 tokens; SingleDecode takes 1. SinglePrefill takes any number.",
            () => decode.Run(query.View, key.View, key.View, output.View)
        );
        Refused("query", "query is no tensor; expected BFloat16[any, 4, 64].", () => prefill.Run(default, key.View, key.View, output.View));
        Refused(
            "key",
            "key is BFloat16[5, 4, 96]; expected BFloat16[any, 2, 64].",
            () => prefill.Run(query.View.Rows(0, 4), other.View, key.View, output.View)
        );
        Refused(
            "value",
            "value is BFloat16[29, 2, 64]; expected BFloat16[30, 2, 64].",
            () => prefill.Run(query.View.Rows(0, 4), key.View, key.View.Rows(0, 29), output.View.Rows(0, 4))
        );
        Refused(
            "output",
            "output is BFloat16[5, 4, 64]; expected BFloat16[4, 4, 64].",
            () => prefill.Run(query.View.Rows(0, 4), key.View, key.View, output.View)
        );
        Refused(
            "smScale",
            "finite smScale above 0",
            () => prefill.Run(query.View.Rows(0, 4), key.View, key.View, output.View.Rows(0, 4), smScale: -1)
        );
        prefill.Run(query.View.Rows(0, 4), key.View, key.View, output.View.Rows(0, 4));
        prefill.Dispose();
        prefill.Dispose();
        ObjectDisposedException disposed = Assert.Throws<ObjectDisposedException>(() =>
            prefill.Run(query.View, key.View, key.View, output.View)
        );
        Assert.Equal("FlashInfer.SinglePrefill", disposed.ObjectName);

        static void Refused(string parameter, string message, Action call)
        {
            ArgumentException e = Assert.ThrowsAny<ArgumentException>(call);
            Assert.Equal(parameter, e.ParamName);
            Assert.Contains(message, e.Message, StringComparison.Ordinal);
        }
    }

    private static DeviceTensor<BFloat16> Draw(Device device, int rows, int heads, int headDim)
    {
        Random random = new(rows);
        DeviceTensor<BFloat16> tensor = device.Allocate<BFloat16>(rows, heads, headDim);
        tensor.View.CopyFrom([.. Enumerable.Range(0, rows * heads * headDim).Select(_ => (BFloat16)((random.NextSingle() * 4) - 2))]);
        return tensor;
    }
}
