using FlashInfer.Generators.Tests.Harness;

namespace FlashInfer.Generators.Tests;

public sealed partial class UsageDiagnosticTests
{
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

            void CopiedBeforeItIsComputed(Sequence[] batch, Llama.Query q, Llama.Output o, DeviceTensor<BFloat16> kept)
            {
                using CudaStream side = new(context);
                decode.Plan(batch, stream: side);
                decode.Run(0, q, o, side);
                o.View.CopyTo(kept, side);
                [|kept.ToArray()|];
                [|o.View.CopyTo(kept)|];
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
                using DeviceTensor<BFloat16> kept = device.Allocate<BFloat16>(2, 32, 128);
                decode.Plan(batch, stream: stream);
                stream.BeginCapture();
                for (int layer = 0; layer < cache.Layers; layer++)
                {
                    decode.Append(layer, k, v, stream);
                    decode.Run(layer, q, o, stream);
                    o.View.CopyTo(kept, stream);
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
