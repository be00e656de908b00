namespace FlashInfer.Generators.Emit;

/// <summary>Writes the typed tensors: one struct for each role, so that a query cannot be passed where a key is wanted.</summary>
internal static class TensorEmitter
{
    /// <summary>The names of the structs.</summary>
    public static readonly string[] Names = { "Query", "Key", "Value", "Output", "Lse2" };

    /// <summary>The roles in a configuration.</summary>
    public static Tensor[] Of(ConfigText text) =>
        new[]
        {
            new Tensor("Query", "Queries", text.Query("tokens"), "Heads, HeadDim", text.Element, text.Dtype.Words),
            // Keys and values as they are appended; a quantised cache makes them its own element type.
            new Tensor("Key", "Keys", text.Key("tokens"), "KvHeads, HeadDim", text.Element, text.Dtype.Words),
            new Tensor("Value", "Values", text.Value("tokens"), "KvHeads, ValueDim", text.Element, text.Dtype.Words),
            new Tensor("Output", "Attention output", text.Output("tokens"), "Heads, ValueDim", text.Element, text.Dtype.Words),
            new Tensor("Lse2", "Base-2 log-sum-exp of the scaled scores", text.Lse("tokens"), "Heads", "float", "Float32"),
        };

    /// <summary>The method by which a tensor is allocated.</summary>
    public static void Factory(CodeWriter code, Tensor tensor) =>
        code.Block(
            $$"""

            /// <summary>Allocates {{tensor.Shape}}, contents undefined. Dispose it to give the memory back.</summary>
            /// <param name="device">The device.</param>
            /// <param name="tokens">Tokens, 0 or more.</param>
            /// <returns>The tensor, which owns its memory.</returns>
            public static {{tensor.Name}} Allocate{{tensor.Name}}(global::FlashInfer.Device device, int tokens) => {{tensor.Name}}.Allocate(device, tokens);
            """
        );

    public static void Emit(CodeWriter code, Tensor tensor, ConfigText text)
    {
        (string element, string shape, string dimensions) = (tensor.Element, tensor.Shape, tensor.Dimensions);
        code.Block(
            $$"""
            /// <summary>{{tensor.What}}: {{tensor.ElementWords}} {{shape}}.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public readonly struct {{tensor.Name}} : global::System.IDisposable
            {
                private readonly global::FlashInfer.DeviceTensor<{{element}}>? _owner;

                /// <summary>Looks at memory that somebody else owns.</summary>
                /// <param name="view">A view of {{shape}}.</param>
                /// <exception cref="global::System.ArgumentException">The view has another shape.</exception>
                public {{tensor.Name}}(global::FlashInfer.TensorView<{{element}}> view)
                {
                    View = view.Expect("{{tensor.Name}}", -1, {{dimensions}});
                }

                private {{tensor.Name}}(global::FlashInfer.DeviceTensor<{{element}}> owner)
                {
                    _owner = owner;
                    View = owner.View;
                }

                /// <summary>The tensor without its role.</summary>
                public global::FlashInfer.TensorView<{{element}}> View { get; }

                /// <summary>{{shape}}.</summary>
                public global::FlashInfer.TensorShape Shape => View.Shape;

                /// <summary>Tokens: the first dimension.</summary>
                public int Tokens => View.Shape[0];

                /// <summary>Some of the tokens: a view of the same memory, for a step that is smaller than the largest.</summary>
                /// <param name="start">The first token.</param>
                /// <param name="count">The number of tokens.</param>
                public {{tensor.Name}} Rows(int start, int count) => new(View.Rows(start, count));

                /// <summary>Copies host values into the tensor, in stream order; the source may be reused on return.</summary>
                /// <param name="source">As many values as the tensor has elements, last dimension fastest.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void CopyFrom(global::System.ReadOnlySpan<{{element}}> source, global::FlashInfer.Cuda.CudaStream? stream = null) => View.CopyFrom(source, stream);

                /// <summary>Copies the tensor to the host, in stream order, and waits for it.</summary>
                /// <param name="destination">Room for as many values as the tensor has elements.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void CopyTo(global::System.Span<{{element}}> destination, global::FlashInfer.Cuda.CudaStream? stream = null) => View.CopyTo(destination, stream);

                /// <summary>The tensor's values in a new array, last dimension fastest; waits for the work queued before.</summary>
                /// <param name="stream">A stream; the device's own when null.</param>
                /// <returns>As many values as the tensor has elements.</returns>
                public {{element}}[] ToArray(global::FlashInfer.Cuda.CudaStream? stream = null) => View.ToArray(stream);
            """
        );
        if (tensor.Name == "Lse2")
        {
            NaturalLog(code);
        }

        code.Block(
            $$"""

                /// <summary>Frees memory that <see cref="Allocate{{tensor.Name}}"/> gave; does nothing to memory of somebody else.</summary>
                public void Dispose() => _owner?.Dispose();

                /// <summary>Role, shape, element type and device.</summary>
                public override string ToString() => $"{{text.Name}}.{{tensor.Name}} {View}";

                internal static {{tensor.Name}} Allocate(global::FlashInfer.Device device, int tokens)
                {
                    global::System.ArgumentNullException.ThrowIfNull(device);
                    return new(device.Allocate<{{element}}>(tokens, {{dimensions}}));
                }
            }
            """
        );
    }

    // A member of the struct, so one level in.
    private static void NaturalLog(CodeWriter code) =>
        code.Block(
            """

                /// <summary>The values as natural logarithms, in a new array: times ln 2, with -infinity staying so; waits for the work queued before.</summary>
                /// <param name="stream">A stream; the device's own when null.</param>
                /// <returns>As many values as the tensor has elements.</returns>
                public float[] ToNaturalLog(global::FlashInfer.Cuda.CudaStream? stream = null)
                {
                    float[] values = View.ToArray(stream);
                    global::FlashInfer.Lse.ToNaturalLog(values, values);
                    return values;
                }
            """
        );

    /// <summary>One role.</summary>
    /// <param name="Name">The struct's name.</param>
    /// <param name="What">What it holds, for its summary.</param>
    /// <param name="Shape">Its shape as a reader sees it.</param>
    /// <param name="Dimensions">The dimensions after the tokens, as the emitted code names them.</param>
    /// <param name="Element">The C# type of its elements.</param>
    /// <param name="ElementWords">The name of that type as data types have it.</param>
    internal sealed record Tensor(string Name, string What, string Shape, string Dimensions, string Element, string ElementWords);
}
