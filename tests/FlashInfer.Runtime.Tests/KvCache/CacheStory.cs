using System.Runtime.InteropServices;
using FlashInfer.Tests.Oracle;

namespace FlashInfer.Tests.KvCache;

/// <summary>
/// A cache on the CPU device whose every token is remembered: tests write tokens and ask whether attention still sees exactly them.
/// NaN lies in every slot that was never written.
/// </summary>
internal sealed class CacheStory : IDisposable
{
    public const int Heads = 4;
    public const int KvHeads = 2;
    public const int HeadDim = 64;
    private const int Token = KvHeads * HeadDim;

    private readonly Random _random = new(20);
    private readonly Dictionary<Sequence, Memory[]> _memories = [];

    public CacheStory(int pages = 64, int layers = 1, int pageSize = 4)
    {
        Device = Device.OpenCpu(new DeviceOptions { CpuThreads = 2 });
        Cache = new PagedKvCache(Device, new AttentionSpec(Heads, KvHeads, HeadDim, pageSize, DType.Float16), layers, pages);
        Half[] nan = new Half[Cache.KeyPages(0).Shape.Elements];
        nan.AsSpan().Fill(Half.NaN);
        for (int layer = 0; layer < layers; layer++)
        {
            Cache.KeyPages(layer).As<Half>().CopyFrom(nan);
            Cache.ValuePages(layer).As<Half>().CopyFrom(nan);
        }
    }

    public Device Device { get; }

    public PagedKvCache Cache { get; }

    /// <summary>A sequence with tokens committed.</summary>
    public Sequence Sequence(int tokens)
    {
        Sequence sequence = Cache.NewSequence();
        Begin(sequence, tokens);
        Cache.EndForward(sequence);
        return sequence;
    }

    /// <summary>A sequence that begins with the first tokens of another.</summary>
    public Sequence Fork(Sequence sequence, int tokens)
    {
        Sequence fork = Cache.Fork(sequence, tokens);
        for (int layer = 0; layer < Cache.Layers; layer++)
        {
            Memory memory = Remembered(sequence, layer);
            Remembered(fork, layer).Keys.AddRange(memory.Keys.Take(tokens * Token));
            Remembered(fork, layer).Values.AddRange(memory.Values.Take(tokens * Token));
        }

        return fork;
    }

    /// <summary>Begins a forward and writes its tokens through the cache; it stays open.</summary>
    public void Begin(Sequence sequence, int tokens)
    {
        Cache.BeginForward(sequence, tokens);
        Write([sequence], (layer, key, value) => Cache.Append(layer, [sequence], key, value));
    }

    /// <summary>Draws the tokens of all open forwards of a batch and hands them to an append, layer by layer.</summary>
    public void Write(Sequence[] sequences, Action<int, TensorView, TensorView> append)
    {
        int tokens = sequences.Sum(sequence => sequence.ForwardTokens);
        using DeviceTensor<Half> key = Device.Allocate<Half>(tokens, KvHeads, HeadDim);
        using DeviceTensor<Half> value = Device.Allocate<Half>(tokens, KvHeads, HeadDim);
        for (int layer = 0; layer < Cache.Layers; layer++)
        {
            (Half[] keys, Half[] values) = (Draw(tokens * Token), Draw(tokens * Token));
            key.View.CopyFrom(keys);
            value.View.CopyFrom(values);
            append(layer, key.View, value.View);
            int at = 0;
            foreach (Sequence sequence in sequences)
            {
                int count = sequence.ForwardTokens * Token;
                Memory memory = Remembered(sequence, layer);
                // What an abandoned forward wrote is forgotten here.
                memory.Keys.RemoveRange(sequence.Length * Token, memory.Keys.Count - (sequence.Length * Token));
                memory.Values.RemoveRange(sequence.Length * Token, memory.Values.Count - (sequence.Length * Token));
                memory.Keys.AddRange(keys.AsSpan(at, count).ToArray().Select(x => (float)x));
                memory.Values.AddRange(values.AsSpan(at, count).ToArray().Select(x => (float)x));
                at += count;
            }
        }
    }

    /// <summary>Runs every layer with random queries and compares output and LSE with the oracle.</summary>
    public void Check(BatchDecodeWithPagedKvCache decode, Sequence[] sequences, float? smScale = null)
    {
        for (int layer = 0; layer < Cache.Layers; layer++)
        {
            Check(decode, sequences, layer, smScale ?? (1 / MathF.Sqrt(HeadDim)));
        }
    }

    public void Dispose()
    {
        Cache.Dispose();
        Device.Dispose();
    }

    private void Check(BatchDecodeWithPagedKvCache decode, Sequence[] sequences, int layer, float smScale)
    {
        int row = Heads * HeadDim;
        using DeviceTensor<Half> query = Device.Allocate<Half>(sequences.Length, Heads, HeadDim);
        using DeviceTensor<Half> output = Device.Allocate<Half>(sequences.Length, Heads, HeadDim);
        using DeviceTensor<float> lse = Device.Allocate<float>(sequences.Length, Heads);
        Half[] queries = Draw(sequences.Length * row);
        query.View.CopyFrom(queries);
        decode.Run(layer, query.View, output.View, lse.View);
        double[] expected = new double[queries.Length];
        double[] expectedLse = new double[sequences.Length * Heads];
        for (int i = 0; i < sequences.Length; i++)
        {
            Memory memory = Remembered(sequences[i], layer);
            AttentionOracle.Decode(
                [.. queries.AsSpan(i * row, row).ToArray().Select(x => (float)x)],
                CollectionsMarshal.AsSpan(memory.Keys),
                CollectionsMarshal.AsSpan(memory.Values),
                sequences[i].KvLength,
                Heads,
                KvHeads,
                HeadDim,
                smScale,
                expected.AsSpan(i * row, row),
                expectedLse.AsSpan(i * Heads, Heads)
            );
        }

        float[] actual = [.. output.View.ToArray().Select(x => (float)x)];
        double worst = ErrorNorms.WorstRow(actual, expected, HeadDim);
        double worstLse = ErrorNorms.WorstRelative(lse.View.ToArray(), expectedLse, 1);
        Assert.True(worst <= 4e-3 && worstLse <= 1e-4, $"layer {layer}: worst row {worst:g3}, LSE {worstLse:g3}; {decode.Explain()}");
    }

    private Memory Remembered(Sequence sequence, int layer)
    {
        if (!_memories.TryGetValue(sequence, out Memory[]? layers))
        {
            layers = [.. Enumerable.Range(0, Cache.Layers).Select(_ => new Memory([], []))];
            _memories.Add(sequence, layers);
        }

        return layers[layer];
    }

    private Half[] Draw(int count)
    {
        Half[] values = new Half[count];
        for (int i = 0; i < count; i++)
        {
            values[i] = (Half)((_random.NextSingle() * 4) - 2);
        }

        return values;
    }

    private sealed record Memory(List<float> Keys, List<float> Values);
}
