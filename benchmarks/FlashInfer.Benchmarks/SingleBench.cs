using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>Attention of one sequence without cache and plan, beside the wrappers for batches over the same sequence.</summary>
internal static class SingleBench
{
    private const int Sets = 2;

    private static readonly AttentionSpec s_spec = new(32, 8, 128, 16, DType.BFloat16);

    public static IEnumerable<Row> Run(Device device, Gpu gpu)
    {
        foreach (int length in (int[])[2048, 32_768])
        {
            yield return Decode(device, gpu, length);
        }

        foreach (int length in (int[])[2048, 8192])
        {
            yield return Prefill(device, gpu, length);
        }
    }

    private static Row Decode(Device device, Gpu gpu, int length)
    {
        using Tensors tensors = new(device, gpu, queryTokens: 1, length);
        using SingleDecode single = new(device, s_spec);
        using Workload workload = new(device, gpu, s_spec, [length], targetBytes: 0);
        using BatchDecodeWithPagedKvCache batch = new(workload.Cache, maxSequences: 1);
        batch.Plan(workload.Sequences);
        return Measure(
            device,
            gpu,
            tensors,
            "SingleDecode",
            set => single.Run(tensors.Query(set), tensors.Key(set), tensors.Value(set), tensors.Output(set)),
            "own batch decode of the sequence",
            set => batch.Run(set, tensors.Query(set), tensors.Output(set))
        );
    }

    private static Row Prefill(Device device, Gpu gpu, int length)
    {
        using Tensors tensors = new(device, gpu, length, length);
        using SinglePrefill single = new(device, s_spec);
        using BatchPrefillWithRaggedKvCache batch = new(device, s_spec, maxSequences: 1);
        batch.Plan([0, length], [0, length]);
        return Measure(
            device,
            gpu,
            tensors,
            "SinglePrefill",
            set => single.Run(tensors.Query(set), tensors.Key(set), tensors.Value(set), tensors.Output(set)),
            "own ragged prefill of the sequence",
            set => batch.Run(tensors.Query(set), tensors.Key(set), tensors.Value(set), tensors.Output(set))
        );
    }

    private static Row Measure(Device device, Gpu gpu, Tensors tensors, string what, Action<int> single, string peer, Action<int> batch)
    {
        single(0);
        SampledSequence sequence = new(
            0,
            tensors.QueryTokens,
            IsCausal: true,
            SampledError.Gather(tensors.Key(0), 0, tensors.Length),
            SampledError.Gather(tensors.Value(0), 0, tensors.Length)
        );
        SampledError error = SampledError.Of(s_spec, tensors.Query(0), tensors.Output(0), [sequence]);
        using GraphRound with = new(device, gpu, Sets, single);
        using GraphRound without = new(device, gpu, Sets, batch);
        Timing[] timings = Timing.InTurn(with.Us, without.Us);
        JsonObject parameters = new()
        {
            ["variant"] = "default",
            ["dtype"] = nameof(DType.BFloat16),
            ["heads"] = s_spec.Heads,
            ["kvHeads"] = s_spec.KvHeads,
            ["headDim"] = s_spec.HeadDim,
            ["batch"] = 1,
            ["qoLen"] = tensors.QueryTokens,
            ["kvLen"] = tensors.Length,
        };
        string name = $"{what} {s_spec.Heads}/{s_spec.KvHeads} d{s_spec.HeadDim} bf16 qoLen={tensors.QueryTokens} kvLen={tensors.Length}";
        return new Row("single", name, parameters)
        {
            Peer = peer,
            PeerUs = timings[1].Us,
            RelError = error.Relative,
            MaxAbsError = error.MaxAbs,
        }.With(timings[0]);
    }

    /// <summary>Random inputs and room for outputs, so many sets that one does not find its own in the L2.</summary>
    private sealed class Tensors : IDisposable
    {
        private readonly DeviceTensor[] _all;

        public Tensors(Device device, Gpu gpu, int queryTokens, int length)
        {
            (QueryTokens, Length) = (queryTokens, length);
            _all =
            [
                device.Allocate(s_spec.Dtype, Sets * queryTokens, s_spec.Heads, s_spec.HeadDim),
                device.Allocate(s_spec.Dtype, Sets * length, s_spec.KvHeads, s_spec.HeadDim),
                device.Allocate(s_spec.Dtype, Sets * length, s_spec.KvHeads, s_spec.HeadDim),
                device.Allocate(s_spec.Dtype, Sets * queryTokens, s_spec.Heads, s_spec.HeadDim),
            ];
            for (int i = 0; i < 3; i++)
            {
                gpu.Fill(_all[i].View, (uint)i + 1);
            }
        }

        public int QueryTokens { get; }

        public int Length { get; }

        public TensorView Query(int set) => Set(0, set, QueryTokens);

        public TensorView Key(int set) => Set(1, set, Length);

        public TensorView Value(int set) => Set(2, set, Length);

        public TensorView Output(int set) => Set(3, set, QueryTokens);

        public void Dispose() => Array.ForEach(_all, tensor => tensor.Dispose());

        private TensorView Set(int tensor, int set, int rows) => _all[tensor].View.Rows(set * rows, rows);
    }
}
