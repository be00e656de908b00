using System.Collections.Generic;
using System.Linq;

namespace FlashInfer.Generators.Emit;

/// <summary>Writes the typed tensors: one struct for each role, so that a query cannot be passed where a key is wanted.</summary>
internal static class TensorEmitter
{
    private static readonly Tensor[] s_tensors =
    {
        new("Query", "Queries", Kind.Query),
        new("Key", "Keys", Kind.KeyValue),
        new("Value", "Values", Kind.KeyValue),
        new("Output", "Attention output", Kind.Query),
        new("Lse2", "Base-2 log-sum-exp of the scaled scores", Kind.Lse),
    };

    private enum Kind
    {
        Query,
        KeyValue,
        Lse,
    }

    /// <summary>The names of the emitted structs.</summary>
    public static IEnumerable<string> TypeNames => s_tensors.Select(static tensor => tensor.Name);

    public static void Emit(CodeWriter code, ConfigText text)
    {
        foreach (Tensor tensor in s_tensors)
        {
            Factory(code, tensor.Name, Words(tensor, text));
        }

        foreach (Tensor tensor in s_tensors)
        {
            Struct(code, tensor, text);
        }
    }

    // The shape as a reader sees it: "[tokens, 32, 128]".
    private static string Words(Tensor tensor, ConfigText text) =>
        tensor.Kind switch
        {
            Kind.Query => $"[tokens, {text.Heads}, {text.HeadDim}]",
            Kind.KeyValue => $"[tokens, {text.KvHeads}, {text.HeadDim}]",
            _ => $"[tokens, {text.Heads}]",
        };

    // The dimensions after the tokens, as the emitted code names them.
    private static string Dimensions(Tensor tensor) =>
        tensor.Kind switch
        {
            Kind.Query => "Heads, HeadDim",
            Kind.KeyValue => "KvHeads, HeadDim",
            _ => "Heads",
        };

    private static (string Type, string Words) Element(Tensor tensor, ConfigText text) =>
        tensor.Kind switch
        {
            Kind.Lse => ("float", "Float32"),
            // Keys and values as they are appended; a quantised cache makes them its own element type.
            _ => (text.Element, text.Dtype.Words),
        };

    private static void Factory(CodeWriter code, string name, string shape) =>
        code.Block(
            $$"""

            /// <summary>Allocates {{shape}}, contents undefined. Dispose it to give the memory back.</summary>
            /// <param name="device">The device.</param>
            /// <param name="tokens">Tokens, 0 or more.</param>
            /// <returns>The tensor, which owns its memory.</returns>
            public static {{name}} Allocate{{name}}(global::FlashInfer.Device device, int tokens) => {{name}}.Allocate(device, tokens);
            """
        );

    private static void Struct(CodeWriter code, Tensor tensor, ConfigText text)
    {
        (string element, string elementWords) = Element(tensor, text);
        string shape = Words(tensor, text);
        string dimensions = Dimensions(tensor);
        code.Block(
            $$"""

            /// <summary>{{tensor.What}}: {{elementWords}} {{shape}}.</summary>
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
        if (tensor.Kind == Kind.Lse)
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
    /// <param name="Kind">Which shape and element type.</param>
    private sealed record Tensor(string Name, string What, Kind Kind);
}
