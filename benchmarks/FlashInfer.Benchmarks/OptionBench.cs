using System.Text.Json.Nodes;
using FlashInfer.Attention;

namespace FlashInfer.Benchmarks;

/// <summary>
/// What the options of attention cost: each beside plain attention over the same sequences, in turn, each at the clock that the device keeps
/// for it. The tests hold them against an oracle.
/// </summary>
internal static class OptionBench
{
    private const int Window = 1024;

    private static readonly AttentionOptions[] s_options =
    [
        AttentionOptions.LogitsSoftCap,
        AttentionOptions.Alibi,
        AttentionOptions.Sinks,
        AttentionOptions.Rope,
        AttentionOptions.PackedCustomMask,
        AttentionOptions.SlidingWindow,
    ];

    private static readonly PrefillCase s_usual = PrefillCase.Square(32, 8, 4, 4096) with { PageSize = 16 };

    public static IEnumerable<Row> Run(Device device, Gpu gpu)
    {
        Warmup(device);
        Heat(device, gpu);
        foreach (AttentionOptions option in s_options)
        {
            (int batch, int length) = option == AttentionOptions.SlidingWindow ? (1, 16_384) : (4, 4096);
            yield return Measure(device, gpu, option, PrefillCase.Square(32, 8, batch, length) with { PageSize = 16 });
        }

        foreach (AttentionOptions option in s_options)
        {
            int length = option == AttentionOptions.SlidingWindow ? 8192 : 2048;
            yield return Measure(device, gpu, option, PrefillCase.Uniform(32, 8, 128, 1, length) with { PageSize = 16 });
        }

        Heat(device, gpu);
        foreach (
            (PrefillCase measured, AttentionOptions option) in new[]
            {
                (s_usual with { PageSize = 1 }, AttentionOptions.None),
                (PrefillCase.Square(32, 8, 8, 2048) with { PageSize = 1 }, AttentionOptions.None),
                (s_usual with { KvDtype = DType.Float8E4M3 }, AttentionOptions.None),
                (
                    PrefillCase.Square(16, 4, 4, 4096) with
                    {
                        HeadDim = 256,
                        PageSize = 16,
                        KvDtype = DType.Float8E4M3,
                    },
                    AttentionOptions.None
                ),
                (s_usual, AttentionOptions.Rope),
            }
        )
        {
            foreach (Row row in Staged(device, gpu, option, measured, stages: true))
            {
                yield return row;
            }
        }

        // A part of the batch, as the planner chooses it.
        foreach (
            (DType? kvDtype, AttentionOptions option) in new (DType?, AttentionOptions)[]
            {
                (DType.Float8E4M3, AttentionOptions.None),
                (null, AttentionOptions.Rope),
            }
        )
        {
            foreach (Row row in Staged(device, gpu, option, Mixed(chunks: 4, decodes: 120) with { KvDtype = kvDtype }, stages: null))
            {
                yield return row;
            }
        }
    }

    /// <summary>Chunks of prompts, and decode rows.</summary>
    private static PrefillCase Mixed(int chunks, int decodes) =>
        new(
            32,
            8,
            [.. Enumerable.Repeat(2048, chunks), .. Enumerable.Repeat(1, decodes)],
            [.. Enumerable.Repeat(8192, chunks), .. Enumerable.Repeat(4096, decodes)],
            $"batch={chunks + decodes} mixed={chunks}x2048-on-8192+{decodes}x1-on-4096"
        )
        {
            PageSize = 16,
        };

    private static AttentionSpec Spec(AttentionOptions option, PrefillCase measured) =>
        new(
            measured.Heads,
            measured.KvHeads,
            measured.HeadDim,
            measured.PageSize!.Value,
            measured.Dtype,
            measured.KvDtype,
            variant: AttentionVariant.Of(option)
        );

    /// <summary>Compiles all kernels at once.</summary>
    private static void Warmup(Device device) =>
        Task.WaitAll([
            .. s_options
                .Append(AttentionOptions.None)
                .Select(option =>
                    device.WarmupAsync(
                        Spec(option, PrefillCase.Square(32, 8, 1, 1) with { PageSize = 16 }),
                        KernelKinds.PrefillPaged | KernelKinds.Decode
                    )
                ),
        ]);

    /// <summary>Multiplies for seconds: a device that has rested, or waited for memory, has a clock that it would not keep.</summary>
    private static void Heat(Device device, Gpu gpu)
    {
        using Step plain = new(device, gpu, AttentionOptions.None, s_usual);
        Timing.Sustained(plain.Round.Sustained, plain.Round.Sustained);
    }

    private static Row Measure(Device device, Gpu gpu, AttentionOptions option, PrefillCase measured)
    {
        // A custom mask takes the place of causality, and does as many products as without.
        bool isFull = option == AttentionOptions.PackedCustomMask;
        using Step plain = new(device, gpu, AttentionOptions.None, measured with { IsCausal = !isFull });
        using Step with = new(device, gpu, option, measured);
        Timing[] timings = Timing.Sustained(with.Round.Sustained, plain.Round.Sustained);
        string what = option == AttentionOptions.SlidingWindow ? $"{option} of {Window}" : option.ToString();
        return new Row("options", $"{measured.Name} {what}", Params(measured, option))
        {
            Peer = isFull ? "own full attention, as many products" : "own attention without the option",
            PeerUs = timings[1].Us,
        }.With(timings[0]);
    }

    private static JsonObject Params(PrefillCase measured, AttentionOptions option)
    {
        JsonObject parameters = measured.Params;
        parameters["variant"] = option.ToString();
        parameters["clock"] = "sustained";
        return parameters;
    }

    /// <summary>Keys and values that are gathered, widened or turned: once, ahead of the launch, or by each tile for itself.</summary>
    private static Row[] Staged(Device device, Gpu gpu, AttentionOptions option, PrefillCase measured, bool? stages)
    {
        using Step plain = new(device, gpu, AttentionOptions.None, measured with { PageSize = 16, KvDtype = null });
        using Step staged = new(device, gpu, option, measured, stages);
        using Step alone = new(device, gpu, option, measured, stages: false);
        Timing[] timings = Timing.Sustained(staged.Round.Sustained, alone.Round.Sustained, plain.Round.Sustained);
        string what = option == AttentionOptions.None ? measured.Name : $"{measured.Name} {option}";
        return [Row(staged, "staged", timings[0]), Row(alone, "not staged", timings[1])];

        Row Row(Step step, string how, Timing timing)
        {
            JsonObject parameters = Params(measured, option);
            parameters["stagedTokens"] = step.StagedTokens;
            return new Row("options", $"{what}, {how}", parameters)
            {
                Peer = "own attention over pages of 16 in bf16",
                PeerUs = timings[2].Us,
            }.With(timing);
        }
    }

    /// <summary>A step of prefill, or of decode where each sequence has one query token.</summary>
    private sealed class Step : IDisposable
    {
        private readonly Workload _workload;
        private readonly PagedAttention _attention;
        private readonly DeviceTensor _query;
        private readonly DeviceTensor _output;

        public Step(Device device, Gpu gpu, AttentionOptions option, PrefillCase measured, bool? stages = null)
        {
            AttentionSpec spec = Spec(option, measured);
            int rows = measured.QueryTokens.Sum();
            _workload = new Workload(device, gpu, spec, measured.Lengths, targetBytes: 0);
            int most = stages == false ? 0 : StagedPrefill.DefaultTokens;
            _attention =
                rows == measured.Lengths.Length
                    ? new BatchDecodeWithPagedKvCache(_workload.Cache, rows)
                    : new BatchPrefillWithPagedKvCache(_workload.Cache, measured.Lengths.Length, rows, maxStagedTokens: most)
                    {
                        Stages = stages,
                    };
            _query = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
            _output = device.Allocate(spec.Dtype, rows, spec.Heads, spec.HeadDim);
            gpu.Fill(_query.View, 99);
            if (option == AttentionOptions.None)
            {
                _attention.Plan(_workload.Sequences, measured.QueryTokens, causal: measured.IsCausal);
            }
            else
            {
                VariantArguments<OptionArguments> arguments = new(Arguments(option, spec, measured));
                _attention.Plan(_workload.Sequences, measured.QueryTokens, arguments);
            }

            Round = new GraphRound(device, gpu, _workload.Cache.Layers, layer => _attention.Run(layer, _query.View, _output.View));
        }

        public GraphRound Round { get; }

        public long StagedTokens => _attention is BatchPrefillWithPagedKvCache prefill ? prefill.PlanInfo.StagedTokens : 0;

        public void Dispose()
        {
            Round.Dispose();
            _query.Dispose();
            _output.Dispose();
            _attention.Dispose();
            _workload.Dispose();
        }

        private static OptionArguments Arguments(AttentionOptions option, AttentionSpec spec, PrefillCase measured) =>
            option switch
            {
                AttentionOptions.LogitsSoftCap => new() { LogitsSoftCap = 30 },
                AttentionOptions.Alibi => new() { AlibiSlopes = Heads(spec, head => MathF.Pow(2, -8f * (head + 1) / spec.Heads)) },
                AttentionOptions.Sinks => new() { Sinks = Heads(spec, head => 0.1f * head) },
                AttentionOptions.Rope => new() { RopeFrequencies = RopeFrequencies.Llama(spec.HeadDim) },
                AttentionOptions.PackedCustomMask => new() { PackedCustomMask = CausalBits(measured) },
                AttentionOptions.SlidingWindow => new() { WindowLeft = Window - 1 },
                _ => throw new ArgumentOutOfRangeException(nameof(option), option, "The benchmark has no arguments for this option."),
            };

        private static float[] Heads(AttentionSpec spec, Func<int, float> value) => [.. Enumerable.Range(0, spec.Heads).Select(value)];

        /// <summary>What causal attention sees, so that the work is the same.</summary>
        private static byte[] CausalBits(PrefillCase measured)
        {
            List<byte> bits = [];
            foreach ((int queryTokens, int length) in measured.QueryTokens.Zip(measured.Lengths))
            {
                byte[] own = new byte[(((long)queryTokens * length) + 7) / 8];
                for (long token = 0; token < queryTokens; token++)
                {
                    for (long key = 0; key < length - queryTokens + token + 1; key++)
                    {
                        long bit = (token * length) + key;
                        own[bit / 8] |= (byte)(1 << (int)(bit % 8));
                    }
                }

                bits.AddRange(own);
            }

            return [.. bits];
        }
    }
}
