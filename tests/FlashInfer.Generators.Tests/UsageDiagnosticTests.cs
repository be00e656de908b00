using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

/// <summary>Each usage rule: what it finds, and beside it what looks alike and is right.</summary>
public sealed partial class UsageDiagnosticTests
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
}
