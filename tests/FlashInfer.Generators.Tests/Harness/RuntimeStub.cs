using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Tests.Harness;

internal static class RuntimeStub
{
    private const string Source = """
        #pragma warning disable
        namespace FlashInfer
        {
            using FlashInfer.Cuda;
            public readonly struct BFloat16;
            public readonly struct TensorShape { public int this[int i] => 0; }
            public readonly struct TensorView { }
            public readonly struct TensorView<T> where T : unmanaged
            {
                public Device Device => null!;
                public TensorShape Shape => default;
                public static implicit operator TensorView(TensorView<T> view) => default;
                public void CopyFrom(System.ReadOnlySpan<T> source, CudaStream? stream = null) { }
                public void CopyTo(System.Span<T> destination, CudaStream? stream = null) { }
                public TensorView<T> Expect(string what, params System.ReadOnlySpan<int> shape) => this;
            }
            public sealed class DeviceTensor<T> : System.IDisposable where T : unmanaged
            {
                public TensorView<T> View { get; }
                public void Dispose() { }
            }
            public sealed class Device : System.IDisposable
            {
                public static Device OpenCpu() => null!;
                public DeviceTensor<T> Allocate<T>(params System.ReadOnlySpan<int> shape) where T : unmanaged => null!;
                public System.Threading.Tasks.Task WarmupAsync(AttentionSpec spec, System.Threading.CancellationToken cancellationToken = default) => null!;
                public void Dispose() { }
            }
            public sealed class Sequence;
            public class PagedKvCache(Device device, AttentionSpec spec, int layers, int pages) : System.IDisposable
            {
                public AttentionSpec Spec => spec;
                public int Layers => layers;
                public Sequence NewSequence() => null!;
                public void Append(int layer, System.ReadOnlySpan<Sequence> sequences, TensorView key, TensorView value, CudaStream? stream = null) { }
                public void Dispose() { }
            }
            public class BatchDecodeWithPagedKvCache(PagedKvCache cache, int maxSequences = 1024) : System.IDisposable
            {
                public PagedKvCache Cache => cache;
                public void Plan(System.ReadOnlySpan<Sequence> sequences, CudaStream? stream = null) { }
                public void Append(int layer, TensorView key, TensorView value, CudaStream? stream = null) { }
                public void Run(int layer, TensorView query, TensorView output, TensorView lse = default, CudaStream? stream = null) { }
                public void Dispose() { }
            }
        }
        """;

    public static SyntaxTree[] Trees { get; } = [GeneratorHarness.Parse(Source, "Stub.cs")];
}
