using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>Each usage rule: what it finds, and beside it what looks alike and is right.</summary>
public sealed class UsageDiagnosticTests
{
    [Fact]
    public void FI0101_plan_in_the_layer_loop() =>
        UsageAssert.Reports(
            "FI0101",
            """
            void ForLoop(Sequence[] batch, Llama.Query q, Llama.Output o)
            {
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    [|decode.Plan(batch)|];
                    decode.Run(layer, q, o);
                }
            }

            void WhileLoop(Sequence[] batch, Llama.Key k, Llama.Value v)
            {
                int layer = 0;
                while (layer < cache.Layers)
                {
                    [|decode.Plan(batch, smScale: 0.1f)|];
                    decode.Append(layer, k, v);
                    layer++;
                }
            }

            void ForEach(Sequence sequence, IEnumerable<(int Index, Llama.Query Query, Llama.Output Output)> layers)
            {
                foreach (var layer in layers)
                {
                    [|decode.Plan([sequence])|];
                    decode.Run(layer.Index, layer.Query, layer.Output);
                }
            }

            void InALambda(Sequence[] batch, Llama.Query q, Llama.Output o)
            {
                Action step = () =>
                {
                    for (int i = 0; i < cache.Layers; i++)
                    {
                        int layer = cache.Layers - 1 - i;
                        [|decode.Plan(batch)|];
                        decode.Run(layer, q, o);
                    }
                };
                step();
            }

            void Right(Sequence[] batch, Sequence[][] batches, float[] scales, Llama.Query q, Llama.Output o, Llama.BatchDecodeWithPagedKvCache other)
            {
                // Once a step.
                for (int step = 0; step < 10; step++)
                {
                    decode.Plan(batch);
                    for (int layer = 0; layer < cache.Layers; layer++)
                    {
                        decode.Run(layer, q, o);
                    }
                }

                // Another plan for each layer, or only where it is needed.
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    decode.Plan(batch, smScale: scales[layer]);
                    decode.Run(layer, q, o);
                }

                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    if (layer == 0)
                    {
                        decode.Plan(batch);
                    }

                    decode.Run(layer, q, o);
                }

                // The passes are steps, each of one layer.
                for (int step = 0; step < cache.Layers; step++)
                {
                    cache.BeginForward(batch, [1, 1]);
                    decode.Plan(batch);
                    decode.Run(step % cache.Layers, q, o);
                    cache.EndForward(batch);
                }

                foreach (Sequence[] some in batches)
                {
                    decode.Plan(some);
                    decode.Run(0, q, o);
                }

                // Two wrappers.
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    other.Plan(batch);
                    decode.Run(layer, q, o);
                }
            }
            """
        );

    [Fact]
    public void FI0101_message() =>
        Assert.Equal(
            "decode.Plan is called for each value of layer, but one plan serves all layers of a step; call it once, before the loop",
            UsageAssert.Message(
                "void M(Sequence[] batch, Llama.Query q, Llama.Output o) { for (int layer = 0; layer < 2; layer++) { decode.Plan(batch); decode.Run(layer, q, o); } }"
            )
        );

    [Fact]
    public void FI0102_no_plan() =>
        UsageAssert.Reports(
            "FI0102",
            """
            void Never(Llama.Query q, Llama.Output o)
            {
                using Llama.BatchDecodeWithPagedKvCache own = new(cache);
                [|own.Run(0, q, o)|];
            }

            void OnOnePath(Sequence[] batch, bool isFirst, Llama.Query q, Llama.Output o, Llama.Key k, Llama.Value v)
            {
                using var own = new Llama.BatchDecodeWithPagedKvCache(cache, maxSequences: 2);
                if (isFirst)
                {
                    own.Plan(batch);
                }

                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    [|own.Append(layer, k, v)|];
                    [|own.Run(layer, q, o)|];
                }
            }

            void MadeAgain(Sequence[] batch, Llama.Query q, Llama.Output o)
            {
                Llama.BatchDecodeWithPagedKvCache own = new(cache);
                own.Plan(batch);
                own.Run(0, q, o);
                own.Dispose();
                own = new(cache, maxQueryTokens: 4);
                [|own.Run(0, q, o)|];
                own.Dispose();
            }

            void Right(Sequence[] batch, Llama.Query q, Llama.Output o, List<Sequence> prefills, bool any)
            {
                // Of a wrapper that is given nobody knows.
                decode.Run(0, q, o);

                // The same condition twice.
                using Llama.BatchDecodeWithPagedKvCache own = new(cache);
                if (prefills.Count > 0)
                {
                    own.Plan(prefills.ToArray());
                }

                if (prefills.Count > 0)
                {
                    own.Run(0, q, o);
                }

                using Llama.BatchDecodeWithPagedKvCache flagged = new(cache);
                bool isPlanned = false;
                if (any)
                {
                    flagged.Plan(batch);
                    isPlanned = true;
                }

                if (isPlanned)
                {
                    flagged.Run(0, q, o);
                }

                using Llama.BatchDecodeWithPagedKvCache thrown = new(cache);
                if (any)
                {
                    thrown.Plan(batch);
                }
                else
                {
                    throw new InvalidOperationException();
                }

                thrown.Run(0, q, o);

                // Planned by somebody else.
                using Llama.BatchDecodeWithPagedKvCache passed = new(cache);
                PlanIt(passed, batch);
                passed.Run(0, q, o);

                using Llama.BatchDecodeWithPagedKvCache captured = new(cache);
                void PlanCaptured() => captured.Plan(batch);
                PlanCaptured();
                captured.Run(0, q, o);

                using Llama.BatchDecodeWithPagedKvCache tried = new(cache);
                try
                {
                    tried.Plan(batch);
                }
                catch (OutOfPagesException)
                {
                    return;
                }

                tried.Run(0, q, o);
            }

            static void PlanIt(Llama.BatchDecodeWithPagedKvCache wrapper, Sequence[] batch) => wrapper.Plan(batch);
            """
        );

    [Fact]
    public void FI0102_stale_plan() =>
        UsageAssert.Reports(
            "FI0102",
            """
            void BeginAfterPlan(Sequence[] batch, Llama.Query q, Llama.Output o, Llama.Key k, Llama.Value v)
            {
                decode.Plan(batch);
                cache.BeginForward(batch, [1, 1]);
                [|decode.Append(0, k, v)|];
                [|decode.Run(0, q, o)|];
                cache.EndForward(batch);
            }

            void OneOfTwo(Sequence a, Sequence b, Llama.Query q, Llama.Output o)
            {
                decode.Plan([a, b]);
                cache.Free(b);
                [|decode.Run(0, q, o)|];
            }

            bool Tried(Sequence sequence, Llama.Query q, Llama.Output o)
            {
                decode.Plan([sequence]);
                if (!cache.TryBeginForward(sequence, 1))
                {
                    return false;
                }

                [|decode.Run(0, q, o)|];
                cache.EndForward(sequence);
                return true;
            }

            void Right(Sequence[] batch, Sequence other, Llama.Query q, Llama.Output o, int[] accepted)
            {
                for (int step = 0; step < 2; step++)
                {
                    cache.BeginForward(batch, [1, 1]);
                    decode.Plan(batch);
                    decode.Run(0, q, o);
                    cache.EndForward(batch);
                    decode.Run(0, q, o);
                }

                // Another sequence, and tokens that were perhaps all accepted.
                decode.Plan(batch);
                cache.BeginForward(other, 1);
                decode.Run(0, q, o);
                cache.AbandonForward(other);
                cache.BeginForward(batch, [1, 1]);
                decode.Plan(batch);
                cache.EndForward(batch, accepted);
                decode.Run(0, q, o);

                // Planned, not begun after all.
                decode.Plan(batch);
                if (!cache.TryBeginForward(batch, [1, 1]))
                {
                    decode.Run(0, q, o);
                    return;
                }

                decode.Plan(batch);
                decode.Run(0, q, o);
                cache.EndForward(batch);
            }
            """
        );

    [Fact]
    public void FI0102_messages()
    {
        Assert.Equal(
            "own.Run has no valid plan here: Plan is not called before it on every path; call it once with the step's sequences, before the layers",
            UsageAssert.Message(
                "void M(Llama.Query q, Llama.Output o) { using Llama.BatchDecodeWithPagedKvCache own = new(cache); own.Run(0, q, o); }"
            )
        );
        Assert.Equal(
            "decode.Run has no valid plan here: BeginForward after Plan made the plan stale; call Plan after it",
            UsageAssert.Message(
                "void M(Sequence s, Llama.Query q, Llama.Output o) { decode.Plan([s]); cache.BeginForward(s, 1); decode.Run(0, q, o); cache.EndForward(s); }"
            )
        );
    }

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
                Llama.Query query = [|Llama.AllocateQuery(other, 1)|];
                DeviceTensor<float> plain = [|other.Allocate<float>(1)|];
                DeviceTensor untyped = [|other.Allocate(DType.Float16, 1)|];
                Llama.Output output = default;
                output = [|Llama.AllocateOutput(other, 1)|];
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
                    decode.Run(0, query, output);
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

    [Fact]
    public void FI0106_another_stream() =>
        UsageAssert.Reports(
            "FI0106",
            """
            BFloat16[] ReadOnAnother(Sequence[] batch, Llama.Query q, Llama.Output o)
            {
                using CudaStream side = new(context);
                decode.Plan(batch, stream: side);
                decode.Run(0, q, o, side);
                return [|o.ToArray()|];
            }

            void PlannedOnAnother(Sequence[] batch, Llama.Query q, Llama.Output o)
            {
                using CudaStream side = new(context);
                decode.Plan(batch);
                [|decode.Run(0, q, o, side)|];
            }

            void CopiedOnAnother(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                using CudaStream first = new(context);
                using CudaStream second = new(context);
                q.CopyFrom(host, first);
                decode.Plan(batch, stream: second);
                [|decode.Run(0, q, o, second)|];
                second.Synchronize();
                o.CopyTo(host);
            }

            void Views(Sequence[] batch, DeviceTensor<BFloat16> q, DeviceTensor<BFloat16> o, BFloat16[] host)
            {
                using CudaStream side = new(context);
                BatchDecodeWithPagedKvCache core = decode;
                core.Plan(batch, stream: side);
                core.Run(0, q, o.View, stream: side);
                [|o.CopyTo(host, device.Stream)|];
            }

            void ReadBeforeLaunch(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                if (device.Stream is { } stream)
                {
                    decode.Plan(batch);
                    stream.BeginCapture();
                    decode.Run(0, q, o);
                    using CudaGraph graph = stream.EndCapture();
                    [|o.CopyTo(host)|];
                    graph.Launch(stream);
                    o.CopyTo(host);
                }
            }

            void LaunchedOnAnother(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                using CudaStream side = new(context);
                decode.Plan(batch, stream: side);
                side.BeginCapture();
                decode.Run(0, q, o, side);
                using CudaGraph graph = side.EndCapture();
                graph.Launch(side);
                [|o.CopyTo(host)|];
            }
            """
        );

    [Fact]
    public void FI0106_waited_for_or_perhaps_the_same() =>
        UsageAssert.Reports(
            "FI0106",
            """
            void Waited(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                using CudaStream side = new(context);
                using CudaEvent done = new(context);
                decode.Plan(batch);
                done.Record(device.Stream!);
                side.Wait(done);
                decode.Run(0, q, o, side);
                side.Synchronize();
                o.CopyTo(host);
                decode.Run(0, q, o, side);
                device.Synchronize();
                o.CopyTo(host, side);
                decode.Run(0, q, o, side);
                WaitForIt(side);
                o.CopyTo(host);
            }

            static void WaitForIt(CudaStream stream) => stream.Synchronize();

            void ReadItself(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                using CudaStream side = new(context);
                decode.Plan(batch, stream: side);
                decode.Run(0, q, o, side);
                o.CopyTo(host, side);
                host = o.ToArray();
            }

            void OwnByName(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                CudaStream? own = device.Stream;
                decode.Plan(batch);
                decode.Run(0, q, o, own);
                o.CopyTo(host);
                if (device.Stream is { } stream)
                {
                    decode.Run(0, q, o, stream);
                    o.CopyTo(host);
                }
            }

            void Given(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host, CudaStream stream)
            {
                decode.Plan(batch, stream: stream);
                decode.Run(0, q, o, stream);
                o.CopyTo(host);
            }

            void MadeItsOwn(Sequence[] batch, BFloat16[] host)
            {
                using CudaStream stream = new(context);
                using Device other = Device.FromCuda(context, stream);
                using DeviceTensor<BFloat16> tensor = other.Allocate<BFloat16>(1);
                tensor.CopyFrom(host, stream);
                tensor.CopyTo(host);
            }

            void OtherTensors(Sequence[] batch, Llama.Query q, Llama.Output o, Llama.Key k, BFloat16[] host)
            {
                using CudaStream side = new(context);
                decode.Plan(batch);
                k.CopyFrom(host, side);
                decode.Run(0, q, o);
            }

            void Launched(Sequence[] batch, Llama.Query q, Llama.Output o, BFloat16[] host)
            {
                using CudaStream side = new(context);
                decode.Plan(batch, stream: side);
                side.BeginCapture();
                decode.Run(0, q, o, side);
                using CudaGraph graph = side.EndCapture();
                for (int step = 0; step < 2; step++)
                {
                    q.CopyFrom(host, side);
                    graph.Launch(side);
                    o.CopyTo(host, side);
                }
            }
            """
        );

    [Fact]
    public void FI0106_messages()
    {
        Assert.Equal(
            "o is used by ToArray on the device's own stream, which does not wait for the work on the stream 'side' that used it before; let it wait for an event of that stream, or synchronise",
            UsageAssert.Message(
                "void M(Llama.Query q, Llama.Output o) { using CudaStream side = new(context); decode.Run(0, q, o, side); o.ToArray(); }"
            )
        );
        Assert.Equal(
            "o is read by ToArray, but the graph that computes it is not launched before; launch it, or read after the launch",
            UsageAssert.Message(
                "void M(CudaStream s, Llama.Query q, Llama.Output o) { s.BeginCapture(); decode.Run(0, q, o, s); using CudaGraph g = s.EndCapture(); o.ToArray(s); }"
            )
        );
    }

    [Fact]
    public void FI0107_not_part_of_a_graph() =>
        UsageAssert.Reports(
            "FI0107",
            """
            void OnTheOwnStream(Sequence[] batch, Llama.Query q, Llama.Output o, Llama.Key k, Llama.Value v, BFloat16[] host)
            {
                if (device.Stream is { } stream)
                {
                    stream.BeginCapture();
                    [|decode.Plan(batch)|];
                    [|q.CopyFrom(host)|];
                    for (int layer = 0; layer < cache.Layers; layer++)
                    {
                        [|cache.Append(layer, batch, k, v)|];
                        decode.Run(layer, q, o);
                        [|o.CopyTo(host)|];
                    }

                    [|device.Synchronize()|];
                    [|stream.Synchronize()|];
                    using CudaGraph graph = stream.EndCapture();
                    graph.Launch(stream);
                }
            }

            void OnAGivenStream(CudaStream stream, Sequence[] batch, Llama.Query q, Llama.Output o, Llama.Lse2 l)
            {
                stream.BeginCapture();
                [|decode.Plan(batch, stream: stream)|];
                decode.Run(0, q, o, l, stream);
                _ = [|o.ToArray(stream)|];
                _ = [|l.ToNaturalLog(stream)|];
                stream.EndCapture().Dispose();
            }

            void LeftOut(Llama.Query q, Llama.Output o, Llama.Key k, Llama.Value v)
            {
                using CudaStream side = new(context);
                side.BeginCapture();
                [|decode.Append(0, k, v)|];
                [|decode.Run(0, q, o)|];
                side.EndCapture().Dispose();
            }
            """
        );

    [Fact]
    public void FI0107_outside_or_elsewhere() =>
        UsageAssert.Reports(
            "FI0107",
            """
            void Right(CudaStream stream, Sequence[] batch, Llama.Query q, Llama.Output o, Llama.Key k, Llama.Value v, BFloat16[] host)
            {
                decode.Plan(batch, stream: stream);
                stream.BeginCapture();
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    decode.Append(layer, k, v, stream);
                    decode.Run(layer, q, o, stream);
                }

                using CudaGraph graph = stream.EndCapture();
                decode.Plan(batch, stream: stream);
                graph.Launch(stream);
                o.CopyTo(host, stream);

                // Whether this is the device's own stream nobody can tell.
                stream.BeginCapture();
                decode.Run(0, q, o);
                device.Synchronize();
                stream.EndCapture().Dispose();
            }
            """
        );

    [Fact]
    public void FI0107_messages()
    {
        const string HostCopy = "a graph would replay a copy from host memory that has long been overwritten; ";
        Assert.Equal(
            $"Plan is called while s is being captured: {HostCopy}plan before the capture, and a replay reads the list of the latest plan",
            Message("decode.Plan(batch, stream: s);")
        );
        Assert.Equal(
            $"CopyFrom is called while s is being captured: {HostCopy}copy before the capture, into the same tensor",
            Message("q.CopyFrom([], s);")
        );
        Assert.Equal(
            $"Append is called while s is being captured: {HostCopy}use the wrapper's Append, whose list the plan has sent",
            Message("cache.Append(0, batch, k, v, s);")
        );
        Assert.Equal(
            "ToArray is called while s is being captured: nothing runs until the graph is launched, so there is nothing to read; read after the launch",
            Message("q.ToArray(s);")
        );
        Assert.Equal(
            "Synchronize is called while s is being captured: nothing runs until the graph is launched, so there is nothing to wait for; synchronise after the launch",
            Message("s.Synchronize();")
        );
        Assert.Equal(
            "Run is called while side is being captured: it is on the device's own stream, so it runs at once and is no part of the graph; give it the stream that is captured",
            UsageAssert.Message(
                "void M(Llama.Query q, Llama.Output o) { using CudaStream side = new(context); side.BeginCapture(); decode.Run(0, q, o); side.EndCapture().Dispose(); }"
            )
        );

        static string Message(string call) =>
            UsageAssert.Message(
                $"void M(CudaStream s, Sequence[] batch, Llama.Query q, Llama.Key k, Llama.Value v) {{ s.BeginCapture(); {call} s.EndCapture().Dispose(); }}"
            );
    }

    [Fact]
    public void FI0108_bases_mixed() =>
        UsageAssert.Reports(
            "FI0108",
            """
            void Exponentials(Llama.Lse2 a, Llama.Lse2 b)
            {
                float[] first = a.ToArray();
                float[] second = new float[first.Length];
                b.CopyTo(second);
                float max = float.NegativeInfinity;
                for (int i = 0; i < first.Length; i++)
                {
                    max = MathF.Max(first[i], second[i]);
                    float weight = [|MathF.Exp(first[i] - max)|] + [|MathF.Exp(second[i] - max)|];
                    double precise = [|Math.Exp(a.View.ToArray()[i])|];
                }

                float[] natural = a.ToNaturalLog();
                foreach (float one in natural)
                {
                    float weight = [|float.Exp2(one)|] + [|MathF.Pow(2, one)|];
                }
            }

            void Conversions(Llama.Lse2 a, Llama.Lse2 b)
            {
                float[] natural = a.ToNaturalLog();
                [|Lse.ToNaturalLog(natural, new float[32])|];
                float twice = [|Lse.ToNaturalLog(natural[0])|];
                float unconverted = [|Lse.FromNaturalLog(b.ToArray()[0])|];
                [|b.CopyFrom(natural)|];
                [|b.CopyFrom(natural.AsSpan(0, 32))|];
            }

            bool Mixed(Llama.Lse2 a, Llama.Lse2 b)
            {
                float[] two = a.ToArray();
                float[] natural = b.ToNaturalLog();
                float max = [|MathF.Max(two[0], natural[0])|];
                float difference = [|two[0] - natural[0]|];
                return [|two[1] < natural[1]|];
            }
            """
        );

    [Fact]
    public void FI0108_one_base_or_none() =>
        UsageAssert.Reports(
            "FI0108",
            """
            void Right(Llama.Lse2 a, Llama.Lse2 b, float[] given)
            {
                float[] first = a.ToArray();
                float[] second = b.ToArray();
                for (int i = 0; i < first.Length; i++)
                {
                    float max = MathF.Max(first[i], second[i]);
                    float weight = float.Exp2(first[i] - max) + MathF.Pow(2, second[i] - max);
                    float natural = first[i] * MathF.Log(2);
                    float probability = MathF.Exp(natural) + MathF.Exp(first[i] * 0.6931472f);
                    b.View.CopyFrom(second);
                    float merged = max + MathF.Log2(weight);
                    float other = MathF.Exp(given[i]) + MathF.Exp(first[i] - given[i]);
                }

                float[] values = a.ToArray();
                Lse.ToNaturalLog(values, values);
                float one = MathF.Exp(values[0]);
                Lse.FromNaturalLog(values, values);
                b.CopyFrom(values);

                float[] converted = new float[first.Length];
                Lse.ToNaturalLog(first, converted);
                float two = MathF.Exp(converted[0] - converted.Max());
                Lse.FromNaturalLog(given, first);
                b.CopyFrom(given);

                (float left, float right) = (first[0], given[0]);
                float three = MathF.Exp(left - right);
            }
            """
        );

    [Fact]
    public void FI0108_message() =>
        Assert.Equal(
            "lse[0] is a log-sum-exp of base 2, but MathF.Exp takes a natural one; use float.Exp2, or convert it with ToNaturalLog",
            UsageAssert.Message("float M(Llama.Lse2 l) { float[] lse = l.ToArray(); return MathF.Exp(lse[0]); }")
        );

    [Fact]
    public void Code_without_this_library_is_not_looked_at() =>
        UsageAssert.Reports(
            "",
            """
            private sealed class Planner
            {
                public void Plan() { }
                public void Run(int layer) { }
            }

            void Own(Planner planner)
            {
                for (int layer = 0; layer < 3; layer++)
                {
                    planner.Plan();
                    planner.Run(layer);
                }
            }
            """
        );

    [Fact]
    public void Generated_code_is_not_looked_at() =>
        Assert.Empty(
            GeneratorHarness
                .Run("// <auto-generated/>\nclass A { void M(FlashInfer.Device d) { var tensor = d.Allocate<float>(1); } }")
                .Diagnostics()
        );
}
