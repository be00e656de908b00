using FlashInfer.Attention;
using FlashInfer.Cuda;

namespace FlashInfer;

/// <summary>
/// Merges states of attention over different tokens, each an output and its base-2 LSE as every <c>Run</c> of this library gives them, into
/// the state over all of these tokens: what attention over them at once would have given, but for rounding.
/// </summary>
/// <remarks>
/// A state with LSE -infinity has seen no token and weighs nothing, whatever its output holds; nothing but such states give output 0 and
/// LSE -infinity. Outputs are [rows, heads, headDim] of <see cref="DType.Float16"/>, <see cref="DType.BFloat16"/> or
/// <see cref="DType.Float32"/>, all of the same, headDim a multiple of 8 up to 1,024; LSEs are float [rows, heads]. Any strides are legal
/// that leave the head dimension contiguous and rows and heads of outputs at multiples of 16 bytes. What is written must overlap nothing
/// that is read, unless it is the first state itself. The calls allocate nothing and can be captured in a CUDA graph.
/// </remarks>
public static class AttentionStates
{
    private const int DimStep = 8;
    private const int MostDim = 1024;

    /// <summary>Merges two states.</summary>
    /// <param name="firstOutput">Output of the first.</param>
    /// <param name="firstLse">LSE of the first.</param>
    /// <param name="secondOutput">Output of the second.</param>
    /// <param name="secondLse">LSE of the second.</param>
    /// <param name="output">Receives the merged output.</param>
    /// <param name="lse">Receives the merged LSE; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public static void MergeState(
        TensorView firstOutput,
        TensorView firstLse,
        TensorView secondOutput,
        TensorView secondLse,
        TensorView output,
        TensorView lse = default,
        CudaStream? stream = null
    )
    {
        States states = new(firstOutput, nameof(firstOutput), severalStates: false);
        states.Output(firstOutput, nameof(firstOutput));
        states.Lse(firstLse, nameof(firstLse));
        states.Output(secondOutput, nameof(secondOutput));
        states.Lse(secondLse, nameof(secondLse));
        MergeStatesParams args = First(firstOutput, firstLse);
        SetSecond(ref args, secondOutput, secondLse);
        Run(states, ref args, output, lse, stream);
    }

    /// <summary>Merges a second state into a first one.</summary>
    /// <param name="output">Output of the first; becomes that of both.</param>
    /// <param name="lse">LSE of the first; becomes that of both.</param>
    /// <param name="secondOutput">Output of the second.</param>
    /// <param name="secondLse">LSE of the second.</param>
    /// <param name="mask">int [rows], contiguous: rows with 0 stay as they are; all are merged when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public static void MergeStateInPlace(
        TensorView output,
        TensorView lse,
        TensorView secondOutput,
        TensorView secondLse,
        TensorView mask = default,
        CudaStream? stream = null
    )
    {
        States states = new(output, nameof(output), severalStates: false);
        states.Lse(lse, nameof(lse));
        states.Output(secondOutput, nameof(secondOutput));
        states.Lse(secondLse, nameof(secondLse));
        MergeStatesParams args = First(output, lse);
        SetSecond(ref args, secondOutput, secondLse);
        if (!mask.IsEmpty)
        {
            states.Mask(mask, nameof(mask));
            args.Mask = mask.Address;
        }

        Run(states, ref args, output, lse, stream);
    }

    /// <summary>Merges any number of states.</summary>
    /// <param name="outputs">[rows, states, heads, headDim]: their outputs, of one state or more.</param>
    /// <param name="lses">float [rows, states, heads]: their LSEs.</param>
    /// <param name="output">Receives the merged output.</param>
    /// <param name="lse">Receives the merged LSE; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public static void MergeStates(
        TensorView outputs,
        TensorView lses,
        TensorView output,
        TensorView lse = default,
        CudaStream? stream = null
    )
    {
        States states = new(outputs, nameof(outputs), severalStates: true);
        states.Outputs(outputs, nameof(outputs));
        states.Lses(lses, nameof(lses));
        MergeStatesParams args = new()
        {
            First = outputs.Address,
            FirstLse = lses.Address,
            FirstRowStride = outputs.Stride(0),
            FirstHeadStride = outputs.Stride(2),
            FirstLseRowStride = lses.Stride(0),
            FirstLseHeadStride = lses.Stride(2),
            Other = outputs.Address + checked((nint)(outputs.Stride(1) * outputs.Dtype.Size())),
            OtherLse = lses.Address + checked((nint)(lses.Stride(1) * sizeof(float))),
            OtherRowStride = outputs.Stride(0),
            OtherStateStride = outputs.Stride(1),
            OtherHeadStride = outputs.Stride(2),
            OtherLseRowStride = lses.Stride(0),
            OtherLseStateStride = lses.Stride(1),
            OtherLseHeadStride = lses.Stride(2),
            Others = states.Count - 1,
        };
        Run(states, ref args, output, lse, stream);
    }

    /// <summary>Merges as many states for each row as it has, which lie one behind the other.</summary>
    /// <param name="outputs">[states, heads, headDim]: outputs of all rows' states.</param>
    /// <param name="lses">float [states, heads]: their LSEs.</param>
    /// <param name="indptr">int [rows + 1], contiguous, not falling, from 0 to the number of states: where the states of each row begin. A row without any gets output 0 and LSE -infinity.</param>
    /// <param name="output">Receives the merged output, [rows, heads, headDim].</param>
    /// <param name="lse">Receives the merged LSE, [rows, heads]; none when default.</param>
    /// <param name="stream">A stream; the device's own when null.</param>
    public static void MergeRaggedStates(
        TensorView outputs,
        TensorView lses,
        TensorView indptr,
        TensorView output,
        TensorView lse = default,
        CudaStream? stream = null
    )
    {
        States states = new(outputs, nameof(outputs), severalStates: false);
        states.Output(outputs, nameof(outputs));
        states.Lse(lses, nameof(lses));
        MergeStatesParams args = First(outputs, lses);
        // What follows a state is the next one.
        SetSecond(ref args, outputs, lses);
        args.Other += checked((nint)(outputs.Stride(0) * outputs.Dtype.Size()));
        args.OtherLse += checked((nint)(lses.Stride(0) * sizeof(float)));
        args.OtherStateStride = args.OtherRowStride;
        args.OtherLseStateStride = args.OtherLseRowStride;
        args.Others = states.Rows;
        args.Indptr = indptr.Address;
        Run(states.Merged(indptr, nameof(indptr)), ref args, output, lse, stream);
    }

    private static MergeStatesParams First(in TensorView output, in TensorView lse) =>
        new()
        {
            First = output.Address,
            FirstLse = lse.Address,
            FirstRowStride = output.Stride(0),
            FirstHeadStride = output.Stride(1),
            FirstLseRowStride = lse.Stride(0),
            FirstLseHeadStride = lse.Stride(1),
        };

    private static void SetSecond(ref MergeStatesParams args, in TensorView output, in TensorView lse)
    {
        args.Other = output.Address;
        args.OtherLse = lse.Address;
        args.OtherRowStride = output.Stride(0);
        args.OtherHeadStride = output.Stride(1);
        args.OtherLseRowStride = lse.Stride(0);
        args.OtherLseHeadStride = lse.Stride(1);
        args.Others = 1;
    }

    private static void Run(in States states, ref MergeStatesParams args, in TensorView output, in TensorView lse, CudaStream? stream)
    {
        states.Output(output, nameof(output));
        KernelTensor.CheckWritten(output, nameof(output));
        if (!lse.IsEmpty)
        {
            states.Lse(lse, nameof(lse));
            KernelTensor.CheckWritten(lse, nameof(lse));
            args.Lse = lse.Address;
            args.LseRowStride = lse.Stride(0);
            args.LseHeadStride = lse.Stride(1);
        }

        states.Device.CheckStream(stream);
        args.Output = output.Address;
        args.OutputRowStride = output.Stride(0);
        args.OutputHeadStride = output.Stride(1);
        args.Rows = states.Rows;
        args.Heads = states.Heads;
        args.HeadDim = states.HeadDim;
        if (states.Rows > 0 && states.Heads > 0)
        {
            states.Device.Backend.MergeStates(states.Dtype).Run(args, stream);
        }
    }

    /// <summary>What a call's first tensor says that all others must be like.</summary>
    private readonly struct States
    {
        private readonly string _name;

        public States(in TensorView tensor, string name, bool severalStates)
        {
            _name = name;
            TensorShape shape = tensor.Shape;
            int axis = severalStates ? 1 : 0;
            if (tensor.IsEmpty || shape.Rank != 3 + axis || tensor.Dtype is not (DType.Float16 or DType.BFloat16 or DType.Float32))
            {
                throw new ArgumentException(
                    $"{name} is {tensor}; expected {nameof(DType.Float16)}, {nameof(DType.BFloat16)} or {nameof(DType.Float32)} [rows, {(severalStates ? "states, " : "")}heads, headDim].",
                    name
                );
            }

            Device = tensor.Device;
            Dtype = tensor.Dtype;
            Rows = shape[0];
            Count = severalStates ? shape[1] : 1;
            Heads = shape[1 + axis];
            HeadDim = shape[2 + axis];
            if (HeadDim is < DimStep or > MostDim || HeadDim % DimStep != 0)
            {
                throw new ArgumentException(
                    $"{name} has heads of {HeadDim} elements; expected a multiple of {DimStep} up to {MostDim}.",
                    name
                );
            }

            if (Count < 1 || (long)Rows * Heads > int.MaxValue)
            {
                throw new ArgumentException(
                    $"{name} is {tensor}; expected one state or more, and at most {int.MaxValue} pairs of row and head.",
                    name
                );
            }
        }

        private States(in States states, int rows)
        {
            this = states;
            Rows = rows;
        }

        public Device Device { get; }

        public DType Dtype { get; }

        public int Rows { get; }

        public int Count { get; }

        public int Heads { get; }

        public int HeadDim { get; }

        public void Output(in TensorView tensor, string name) =>
            Check(tensor.Expect(name, Dtype, Rows, Heads, HeadDim), name, isOutput: true);

        public void Outputs(in TensorView tensor, string name) =>
            Check(tensor.Expect(name, Dtype, Rows, Count, Heads, HeadDim), name, isOutput: true);

        public void Lse(in TensorView tensor, string name) => Check(tensor.Expect(name, DType.Float32, Rows, Heads), name, isOutput: false);

        public void Lses(in TensorView tensor, string name) =>
            Check(tensor.Expect(name, DType.Float32, Rows, Count, Heads), name, isOutput: false);

        public void Mask(in TensorView tensor, string name) => Numbers(tensor.Expect(name, DType.Int32, Rows), name);

        /// <summary>What the rows of an indptr become.</summary>
        public States Merged(in TensorView indptr, string name)
        {
            if (indptr.IsEmpty || indptr.Dtype != DType.Int32 || indptr.Shape.Rank != 1 || indptr.Shape[0] < 1)
            {
                throw new ArgumentException($"{name} is {indptr}; expected {nameof(DType.Int32)} [rows + 1].", name);
            }

            if ((long)(indptr.Shape[0] - 1) * Heads > int.MaxValue)
            {
                throw new ArgumentException($"{name} is {indptr}; expected at most {int.MaxValue} pairs of row and head.", name);
            }

            Numbers(indptr, name);
            return new States(this, indptr.Shape[0] - 1);
        }

        private void Numbers(in TensorView tensor, string name)
        {
            Check(tensor, name, isOutput: false);
            if (!tensor.IsContiguous)
            {
                throw new ArgumentException($"{name} has gaps between its elements; expected a contiguous {tensor.Shape}.", name);
            }
        }

        private void Check(in TensorView tensor, string name, bool isOutput)
        {
            KernelTensor.CheckDevice(tensor, name, Device, _name);
            if (isOutput)
            {
                KernelTensor.CheckAligned(tensor, name);
            }
        }
    }
}
