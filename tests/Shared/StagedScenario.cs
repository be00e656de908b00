using System.Runtime.InteropServices;
using FlashInfer.Cuda;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests;

/// <summary>A wrapper that stages from plan to plan or does not, beside one that never does, over the same cache.</summary>
internal sealed class StagedScenario : IDisposable
{
    private const int Layers = 2;
    private static readonly int[] s_lengths = [400, 1, 65, 0, 333];
    private readonly Device _device;
    private readonly int _room;
    private readonly DecodeCase _case;
    private readonly PagedKvCache _cache;
    private readonly Sequence[] _sequences;
    private readonly PrefillWrapper _staging;
    private readonly PrefillWrapper _never;
    private readonly DeviceTensor<BFloat16> _query;
    private readonly DeviceTensor<BFloat16> _output;
    private readonly DeviceTensor<float> _lse;
    private readonly Random _random;

    /// <param name="device">The device.</param>
    /// <param name="one">The configuration; lengths do not matter.</param>
    /// <param name="options">Options of it that are the same for all query tokens.</param>
    /// <param name="room">Tokens that there is room for to stage.</param>
    public StagedScenario(Device device, DecodeCase one, AttentionOptions options = AttentionOptions.None, int room = 1 << 20)
    {
        _device = device;
        _room = room;
        _case = one with { Lengths = s_lengths, QueryTokens = s_lengths };
        _case = options == AttentionOptions.None ? _case : _case.With(options);
        _random = new Random(one.Seed);
        AttentionSpec spec = _case.Spec;
        int rows = s_lengths.Sum();
        _cache = new PagedKvCache(device, spec, Layers, s_lengths.Sum(length => (length + spec.PageSize - 1) / spec.PageSize) + 9);
        _sequences = [.. s_lengths.Select(_ => _cache.NewSequence())];
        _staging = new PrefillWrapper(_cache, 8, rows, Determinism.Reproducible, room);
        _never = new PrefillWrapper(_cache, 8, rows, Determinism.Reproducible, maxStagedTokens: 0);
        _query = Draw(rows, spec.Heads);
        _output = device.Allocate<BFloat16>(rows, spec.Heads, spec.HeadDim);
        _lse = device.Allocate<float>(rows, spec.Heads);
        Sequence[] filled = [.. _sequences.Where((_, i) => s_lengths[i] > 0)];
        _cache.BeginForward(filled, [.. s_lengths.Where(length => length > 0)]);
        for (int layer = 0; layer < Layers; layer++)
        {
            using DeviceTensor<BFloat16> key = Draw(rows, spec.KvHeads);
            using DeviceTensor<BFloat16> value = Draw(rows, spec.KvHeads);
            _cache.Append(layer, filled, key.View, value.View);
        }

        _cache.EndForward(filled);
    }

    /// <summary>
    /// Plans that stage, all or a part, and plans that do not, one after the other; on a GPU replayed by a graph that was captured with one of either
    /// kind.
    /// </summary>
    public static void CheckPlans(Device device, DecodeCase one, AttentionOptions options = AttentionOptions.None)
    {
        foreach ((bool stagesFirst, int room) in ((bool, int)[])[(true, 1 << 20), (false, 1 << 20), (true, 470), (false, 470)])
        {
            using StagedScenario scenario = new(device, one, options, room);
            using CudaGraph? graph = device.Stream is null ? null : scenario.Capture(stagesFirst);
            foreach (
                (int[] queryTokens, bool stages) in ((int[], bool)[])
                    [
                        ([400, 1, 65, 0, 333], true),
                        ([1, 1, 1, 1, 1], false),
                        ([128, 1, 65, 2, 9], true),
                        ([0, 0, 65, 3, 333], false),
                        ([0, 0, 65, 3, 333], true),
                        ([0, 1, 0, 3, 0], true),
                        ([0, 0, 0, 3, 0], true), // no token to stage
                    ]
            )
            {
                scenario.Check(queryTokens, stages, graph);
            }
        }
    }

    /// <summary>In checked mode, what is said of a page table that something has written over, whether it is read to stage or not.</summary>
    public static void CheckPoisoned(Device device, DecodeCase one, int room = 1 << 20)
    {
        Assert.True(device.IsChecked);
        using StagedScenario scenario = new(device, one, room: room);
        int[] queryTokens = [128, 1, 65, 2, 9];
        scenario.Check(queryTokens, stages: true, graph: null);
        Sequence sequence = scenario._sequences[2];
        int token = 2 * one.PageSize;
        foreach (PrefillWrapper wrapper in (PrefillWrapper[])[scenario._staging, scenario._never])
        {
            foreach (int page in (int[])[scenario._cache.TotalPages, -1, -7, int.MaxValue, int.MinValue])
            {
                scenario.Poison(sequence, 2, page);
                DeviceAssertException e = Assert.Throws<DeviceAssertException>(() =>
                    scenario.Run(queryTokens.Sum(), (q, o, lse) => wrapper.Run(1, q, o, lse))
                );

                Assert.Equal("BatchPrefillWithPagedKvCache.Run", e.Operation);
                Assert.Same(sequence, e.Sequence);
                Assert.Equal((1, page), (e.Layer, e.Page));
                Assert.InRange(e.Token!.Value, token, token + one.PageSize - 1);
            }
        }

        // One violation is told once, and does not stay.
        scenario.Poison(sequence, 2, sequence.Pages[2]);
        scenario.Check(queryTokens, stages: true, graph: null);
    }

    public void Dispose()
    {
        _lse.Dispose();
        _output.Dispose();
        _query.Dispose();
        _never.Dispose();
        _staging.Dispose();
        _cache.Dispose();
    }

    private void Check(int[] queryTokens, bool stages, CudaGraph? graph)
    {
        string what = $"{_case}: [{string.Join(", ", queryTokens)}], stages {stages}, graph {graph is not null}";
        long staged = s_lengths.Where((_, i) => queryTokens[i] > 0).Sum();
        _staging.Stages = stages;
        Plan(_staging, queryTokens);
        Plan(_never, queryTokens);
        if (stages && staged > _room)
        {
            Assert.InRange(_staging.PlanInfo.StagedTokens, 1, _room);
            Assert.InRange(_staging.PlanInfo.StagedSequences, 1, queryTokens.Count(tokens => tokens > 0) - 1);
        }
        else
        {
            Assert.Equal(stages ? staged : 0, _staging.PlanInfo.StagedTokens);
        }

        Assert.Equal(stages && staged > 0, _staging.Explain().EndsWith(" staged", StringComparison.Ordinal));
        Assert.Equal(0, _never.PlanInfo.StagedTokens);
        for (int layer = 0; layer < Layers; layer++)
        {
            int l = layer;
            (float[] expected, float[] expectedLse) = Run(queryTokens.Sum(), (q, o, lse) => _never.Run(l, q, o, lse));
            (float[] actual, float[] actualLse) =
                graph is null || layer > 0
                    ? Run(queryTokens.Sum(), (q, o, lse) => _staging.Run(l, q, o, lse))
                    : Run(queryTokens.Sum(), (_, _, _) => graph.Launch(_device.Stream!));
            double error = ErrorNorms.Relative(actual, [.. expected.Select(x => (double)x)]);
            double lseError = ErrorNorms.WorstRelative(actualLse, [.. expectedLse.Select(x => (double)x)], floor: 1);
            Assert.True(error < 0.01 && lseError < 0.01, $"{what}: layer {layer} is {error:E2} off, its LSE {lseError:E2}");
        }
    }

    /// <summary>Layer 0 of a plan as large as any.</summary>
    private CudaGraph Capture(bool stages)
    {
        _staging.Stages = stages;
        Plan(_staging, s_lengths);
        _staging.Run(0, _query.View, _output.View, _lse.View);
        _device.Stream!.BeginCapture();
        _staging.Run(0, _query.View, _output.View, _lse.View);
        return _device.Stream.EndCapture();
    }

    private void Plan(PrefillWrapper wrapper, int[] queryTokens)
    {
        if (_case.Variant is { } variant)
        {
            variant.Plan(wrapper, _sequences, queryTokens, null, true);
        }
        else
        {
            wrapper.Plan(_sequences, queryTokens, null, true);
        }
    }

    private (float[] Output, float[] Lse) Run(int rows, Action<TensorView, TensorView, TensorView> run)
    {
        _output.View.CopyFrom([.. Enumerable.Repeat((BFloat16)float.NaN, (int)_output.Shape.Elements)]);
        _lse.View.CopyFrom([.. Enumerable.Repeat(float.NaN, (int)_lse.Shape.Elements)]);
        run(_query.View.Rows(0, rows), _output.View.Rows(0, rows), _lse.View.Rows(0, rows));
        return ([.. _output.View.Rows(0, rows).ToArray().Select(x => (float)x)], _lse.View.Rows(0, rows).ToArray());
    }

    private void Poison(Sequence sequence, int index, int page)
    {
        nint entry = _cache.Table.Address + ((sequence.PageOffset + index) * sizeof(int));
        _device.Backend.CopyIn(entry, MemoryMarshal.AsBytes(new ReadOnlySpan<int>(in page)), null);
        _device.Synchronize();
    }

    private DeviceTensor<BFloat16> Draw(int rows, int heads)
    {
        DeviceTensor<BFloat16> tensor = _device.Allocate<BFloat16>(rows, heads, _cache.Spec.HeadDim);
        tensor.View.CopyFrom([.. Enumerable.Range(0, (int)tensor.Shape.Elements).Select(_ => (BFloat16)((_random.NextSingle() * 2) - 1))]);
        return tensor;
    }
}
