using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

public sealed partial class UsageDiagnosticTests
{
    [Fact]
    public void FI0103_left_open() =>
        UsageAssert.Reports(
            "FI0103",
            """
            void EarlyReturn(Sequence sequence, bool isCancelled)
            {
                [|cache.BeginForward(sequence, 1)|];
                decode.Plan([sequence]);
                if (isCancelled)
                {
                    return;
                }

                cache.EndForward(sequence);
            }

            void Continue(Sequence[] batch, bool[] skip)
            {
                for (int step = 0; step < skip.Length; step++)
                {
                    [|cache.BeginForward(batch, [1, 1])|];
                    if (skip[step])
                    {
                        continue;
                    }

                    cache.EndForward(batch);
                }
            }

            bool Tried(Sequence sequence, bool isDone)
            {
                if (![|cache.TryBeginForward(sequence, 1)|])
                {
                    return false;
                }

                if (isDone)
                {
                    cache.EndForward(sequence);
                }

                return true;
            }

            void OneOfTwo(Sequence a, Sequence b, bool isGood)
            {
                [|cache.BeginForward([a, b], [1, 1])|];
                cache.EndForward(a);
                if (isGood)
                {
                    cache.EndForward(b);
                }
            }

            void NobodyElseHasIt(Llama.Key k, Llama.Value v)
            {
                Sequence sequence = cache.NewSequence();
                [|cache.BeginForward(sequence, 8)|];
                cache.Append(0, sequence, k, v);
            }

            void InALoop(int steps)
            {
                Sequence sequence = cache.NewSequence();
                for (int step = 0; step < steps; step++)
                {
                    [|cache.BeginForward(sequence, 1)|];
                }

                cache.EndForward(sequence);
            }

            void EachSequence(IEnumerable<Sequence> sequences)
            {
                foreach (Sequence sequence in sequences)
                {
                    [|cache.BeginForward(sequence, 1)|];
                    if (sequence.Length > 100)
                    {
                        continue;
                    }

                    cache.EndForward(sequence);
                }
            }
            """
        );

    [Fact]
    public void FI0103_closed_or_for_others_to_close() =>
        UsageAssert.Reports(
            "FI0103",
            """
            private readonly Sequence _sequence = cache.NewSequence();

            public void Begin() => cache.BeginForward(_sequence, 1);

            public void End() => cache.EndForward(_sequence);

            void ByAMethod(bool isCancelled)
            {
                cache.BeginForward(_sequence, 1);
                if (isCancelled)
                {
                    End();
                    return;
                }

                cache.EndForward(_sequence);
            }

            void Returned(List<Sequence> running, out Sequence given)
            {
                Sequence sequence = cache.NewSequence();
                cache.BeginForward(sequence, 1);
                running.Add(sequence);
                given = cache.NewSequence();
                cache.BeginForward(given, 1);
            }

            void AllWays(Sequence sequence, int accepted, bool isCancelled, bool isFinished)
            {
                cache.BeginForward(sequence, 4);
                if (isCancelled)
                {
                    cache.AbandonForward(sequence);
                    return;
                }

                if (isFinished)
                {
                    cache.Free(sequence);
                }
                else
                {
                    cache.EndForward(sequence, accepted);
                }
            }

            void Caught(Sequence sequence)
            {
                cache.BeginForward(sequence, 1);
                try
                {
                    decode.Plan([sequence]);
                    cache.EndForward(sequence);
                }
                catch
                {
                    cache.AbandonForward(sequence);
                    throw;
                }
            }

            void Finally(Sequence sequence, bool isDone)
            {
                cache.BeginForward(sequence, 1);
                try
                {
                    if (isDone)
                    {
                        return;
                    }

                    decode.Plan([sequence]);
                }
                finally
                {
                    cache.AbandonForward(sequence);
                }
            }

            void Thrown(Sequence sequence, bool isWrong)
            {
                cache.BeginForward(sequence, 1);
                if (isWrong)
                {
                    throw new InvalidOperationException();
                }

                cache.EndForward(sequence);
            }

            void SameCondition(Sequence[] prefills, int[] tokens)
            {
                if (prefills.Length > 0)
                {
                    cache.BeginForward(prefills, tokens);
                }

                decode.Plan(prefills);
                if (prefills.Length > 0)
                {
                    cache.EndForward(prefills);
                }
            }

            void OneByOne(Sequence[] batch)
            {
                cache.BeginForward(batch, [1, 1]);
                foreach (Sequence sequence in batch)
                {
                    cache.EndForward(sequence);
                }

                cache.BeginForward(batch, [1, 1]);
                for (int i = 0; i < batch.Length; i++)
                {
                    cache.EndForward(batch[i]);
                }
            }

            void TwoLoops(List<Sequence> sequences)
            {
                foreach (Sequence sequence in sequences)
                {
                    cache.BeginForward(sequence, 1);
                }

                foreach (Sequence sequence in sequences)
                {
                    cache.EndForward(sequence);
                }
            }

            void Slices(Sequence[] batch, int count)
            {
                cache.BeginForward(batch.AsSpan(0, count), [1, 1]);
                cache.EndForward(batch.AsSpan(0, count));
            }

            void Tried(Sequence sequence)
            {
                if (cache.TryBeginForward(sequence, 1))
                {
                    cache.EndForward(sequence);
                }

                while (!cache.TryBeginForward(sequence, 1))
                {
                    Preempt();
                }

                cache.EndForward(sequence);
            }

            static void Preempt() { }
            """
        );

    [Fact]
    public void FI0103_messages()
    {
        Assert.Equal(
            "The forward of s that begins here is still open when the function returns and 'stop' was true; call EndForward, or AbandonForward to take its tokens back",
            UsageAssert.Message("void M(Sequence s, bool stop) { cache.BeginForward(s, 1); if (stop) { return; } cache.EndForward(s); }")
        );
        Assert.Equal(
            "The forward of s that begins here is still open when the function returns; call EndForward, or AbandonForward to take its tokens back",
            UsageAssert.Message("void M() { Sequence s = cache.NewSequence(); cache.BeginForward(s, 1); }")
        );
        Assert.Equal(
            "The forward of s that begins here is still open when another one begins; call EndForward, or AbandonForward to take its tokens back",
            UsageAssert.Message(
                "void M(Sequence s) { while (true) { cache.BeginForward(s, 1); if (s.Length < 9) { continue; } cache.EndForward(s); } }"
            )
        );
    }

    [Fact]
    public void FI0104_never_disposed() =>
        UsageAssert.Reports(
            "FI0104",
            """
            private readonly Llama.Query [|_query|] = Llama.AllocateQuery(device, 1);
            private Llama.PagedKvCache? [|_own|];

            void Fields(Llama.Output o)
            {
                _own = new Llama.PagedKvCache(device, layers: 1, pages: 1);
                decode.Run(0, _query, o);
                _ = _own.Layers;
            }

            void Locals(Sequence[] batch)
            {
                Device other = [|Device.OpenCpu()|];
                Llama.PagedKvCache made = [|new(other, layers: 1, pages: 1)|];
                var wrapper = [|new Llama.BatchDecodeWithPagedKvCache(made)|];
                Llama.SingleDecode single = [|new(other)|];
                SinglePrefill untypedSingle = [|new(other, Llama.Spec)|];
                Llama.Query query = [|Llama.AllocateQuery(other, 1)|];
                DeviceTensor<float> plain = [|other.Allocate<float>(1)|];
                DeviceTensor untyped = [|other.Allocate(DType.Float16, 1)|];
                Llama.Output output = default;
                output = [|Llama.AllocateOutput(other, 1)|];
                _ = (single.Spec, untypedSingle.Spec);
                wrapper.Plan(batch);
                wrapper.Run(0, query, output);
                plain.CopyFrom([1f]);
                untyped.CopyFrom([1f]);
            }

            BFloat16[] Nameless(Llama.Query q)
            {
                decode.Plan([cache.NewSequence()]);
                [|decode.Run(0, q)|];
                _ = [|decode.Run(0, q)|];
                decode.Run(0, q, [|Llama.AllocateOutput(device, 1)|]);
                return [|decode.Run(0, q)|].ToArray();
            }
            """
        );

    [Fact]
    public void FI0104_disposed_or_given_away() =>
        UsageAssert.Reports(
            "FI0104",
            """
            private readonly Llama.Query _query = Llama.AllocateQuery(device, 1);
            private readonly Llama.Key _key = Llama.AllocateKey(device, 1);
            private readonly List<IDisposable> _all = [];
            private Llama.PagedKvCache? _own;
            internal Llama.Value Shared = Llama.AllocateValue(device, 1);
            private static readonly Device s_device = Device.OpenCpu();
            private readonly Llama.BatchDecodeWithPagedKvCache _given = decode;

            public void Dispose()
            {
                _query.Dispose();
                _own?.Dispose();
                DisposeAll(_key);
            }

            static void DisposeAll(params IDisposable[] all) => Array.ForEach(all, static one => one.Dispose());

            void Fields(Llama.Output o)
            {
                _own = new Llama.PagedKvCache(device, layers: 1, pages: 1);
                _given.Run(0, _query, o);
                _ = s_device.Name;
            }

            Llama.Output Locals(Sequence[] batch, bool isFirst, Llama.Query[] queries)
            {
                using Device other = Device.OpenCpu();
                using (Llama.PagedKvCache made = new(other, layers: 1, pages: 1))
                {
                    _ = made.Layers;
                }

                Llama.Key key = Llama.AllocateKey(other, 1);
                try
                {
                    key.CopyFrom(new BFloat16[1024]);
                }
                finally
                {
                    key.Dispose();
                }

                Llama.Value value = Llama.AllocateValue(other, 1);
                using (value)
                {
                    _ = value.Tokens;
                }

                DeviceTensor<float>? perhaps = isFirst ? other.Allocate<float>(1) : null;
                perhaps?.Dispose();
                DeviceTensor<float> kept = other.Allocate<float>(1);
                _all.Add(kept);
                _all.Add(other.Allocate<float>(1));
                queries[0] = Llama.AllocateQuery(other, 1);
                Llama.Lse2 lse = Llama.AllocateLse2(other, 1);
                void Clean() => lse.Dispose();
                Clean();
                using Llama.Output output = decode.Run(0, queries[0]);
                Llama.Output result = Llama.AllocateOutput(device, 1);
                return result;
            }

            async Task Later()
            {
                await using Resource resource = new(Device.OpenCpu());
                using Device opened = await Task.Run(static () => Device.OpenCpu());
                Llama.Query view = new(opened.View<BFloat16>(1, [1, 32, 128]));
                _ = view.Tokens;
            }

            private sealed class Resource(Device device) : IAsyncDisposable
            {
                public ValueTask DisposeAsync()
                {
                    device.Dispose();
                    return default;
                }
            }
            """
        );

    [Fact]
    public void FI0104_messages()
    {
        Assert.Equal(
            "query is never disposed, so its device memory is not given back; dispose it, with 'using' for example, or it is held until the device is disposed",
            UsageAssert.Message("void M() { Llama.Query query = Llama.AllocateQuery(device, 1); }")
        );
        Assert.Equal(
            "other is never disposed, so its device memory is not given back; dispose it when the program is done with it, with 'using' for example",
            UsageAssert.Message("void M() { Device other = Device.Open(); }")
        );
        Assert.Equal(
            "The result of Run is never disposed, so its device memory is not given back; dispose it, with 'using' for example, or it is held until the device is disposed",
            UsageAssert.Message("void M(Llama.Query q) { decode.Run(0, q); }")
        );
        Assert.Equal(
            "_query is never disposed, so its device memory is not given back; let Subject implement IDisposable and dispose it there",
            UsageAssert.Message("private readonly Llama.Query _query = Llama.AllocateQuery(device, 1);")
        );
    }

    [Fact]
    public void FI0105_allocated_per_step() =>
        UsageAssert.Reports(
            "FI0105",
            """
            void Steps(Sequence[] batch, int steps)
            {
                for (int step = 0; step < steps; step++)
                {
                    using Llama.Query query = [|Llama.AllocateQuery(device, batch.Length)|];
                    decode.Plan(batch);
                    for (int layer = 0; layer < cache.Layers; layer++)
                    {
                        using Llama.Output output = [|decode.Run(layer, query)|];
                    }
                }
            }

            void Right(Sequence[] batch, int steps, Queue<int> sizes, List<Llama.Output> outputs)
            {
                Llama.Query query = Llama.AllocateQuery(device, batch.Length);
                using Llama.Output output = Llama.AllocateOutput(device, batch.Length);
                while (sizes.TryDequeue(out int rows))
                {
                    // Only where it has to grow.
                    if (rows > query.Tokens)
                    {
                        query.Dispose();
                        query = Llama.AllocateQuery(device, rows);
                    }

                    decode.Plan(batch);
                    Llama.Query first = query.Rows(0, rows);
                    decode.Run(0, first, output.Rows(0, rows));
                }

                query.Dispose();

                // Kept: one for each layer.
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    outputs.Add(Llama.AllocateOutput(device, 1));
                    decode.Run(layer, query, outputs[layer]);
                }

                // No step: nothing runs, or everything is made anew.
                for (int i = 0; i < steps; i++)
                {
                    using Llama.Key key = Llama.AllocateKey(device, 1);
                }

                for (int i = 0; i < steps; i++)
                {
                    using Llama.BatchDecodeWithPagedKvCache own = new(cache, maxQueryTokens: 1 + i);
                    using Llama.Query first = Llama.AllocateQuery(device, batch.Length);
                    own.Plan(batch);
                    own.Run(0, first, output);
                }
            }
            """
        );

    [Fact]
    public void FI0105_message() =>
        Assert.Equal(
            "query is allocated in every pass of a loop that runs attention; an allocation waits for the device, so allocate it once before the loop, for the largest step",
            UsageAssert.Message(
                "void M(Llama.Output o) { while (true) { using Llama.Query query = Llama.AllocateQuery(device, 1); decode.Run(0, query, o); } }"
            )
        );
}
