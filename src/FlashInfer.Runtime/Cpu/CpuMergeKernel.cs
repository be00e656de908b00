using System.Numerics.Tensors;
using FlashInfer.Attention;
using FlashInfer.Cuda;
using FlashInfer.Observability;

namespace FlashInfer.Cpu;

/// <summary>Merges states on the CPU, a row a unit.</summary>
/// <param name="pool">The threads; not owned.</param>
internal sealed unsafe class CpuMergeKernel<TElement>(CpuWorkerPool pool) : MergeKernel
    where TElement : struct, IQueryElement
{
    // Waking threads takes longer than merging less.
    private const long WorthThreads = 64 * 1024;

    private readonly Job _job = new();

    /// <inheritdoc/>
    public override void Run(in MergeStatesParams args, CudaStream? stream)
    {
        CpuBackend.RefuseStream(stream);
        MergeStatesParams copy = args;
        if ((long)args.Heads * args.HeadDim * (args.Indptr != 0 ? args.Others : args.Rows * (args.Others + 1L)) >= WorthThreads)
        {
            pool.Run(_job, (nint)(&copy), args.Rows);
        }
        else
        {
            for (int row = 0; row < args.Rows; row++)
            {
                _job.Execute((nint)(&copy), row, 0);
            }
        }

        Telemetry.Launched("cpu_merge_states");
    }

    /// <inheritdoc/>
    public override void Dispose() { }

    private sealed class Job : CpuJob
    {
        public override void Execute(nint args, int unit, int worker)
        {
            ref readonly MergeStatesParams p = ref *(MergeStatesParams*)args;
            if (p.Mask != 0 && ((int*)p.Mask)[unit] == 0)
            {
                return;
            }

            float* merged = stackalloc float[p.HeadDim];
            float* state = stackalloc float[p.HeadDim];
            (long first, int others) = States(p, unit);
            for (int head = 0; head < p.Heads; head++)
            {
                Merge(p, unit, first, others, head, new Span<float>(merged, p.HeadDim), new Span<float>(state, p.HeadDim));
            }
        }

        /// <summary>What a row merges: a state, and so many behind it; none if below 0.</summary>
        private static (long First, int Others) States(in MergeStatesParams p, int row)
        {
            if (p.Indptr != 0)
            {
                int begin = Math.Max(((int*)p.Indptr)[row], 0);
                return (begin, Math.Min(((int*)p.Indptr)[row + 1], p.Others) - begin - 1);
            }

            return (row, p.Others);
        }

        private static void Merge(
            in MergeStatesParams p,
            long row,
            long first,
            int others,
            long head,
            Span<float> merged,
            Span<float> state
        )
        {
            merged.Clear();
            float max = float.NegativeInfinity;
            float sum = others < 0 ? 0 : Sum(p, first, others, head, merged, state, out max);

            // Nothing but empty states give 0 and -infinity.
            TensorPrimitives.Multiply(merged, sum == 0 ? 0 : 1 / sum, merged);
            long to = (row * p.OutputRowStride) + (head * p.OutputHeadStride);
            fixed (float* source = merged)
            {
                TElement.Narrow(source, (byte*)p.Output + (to * TElement.Size), merged.Length);
            }

            if (p.Lse != 0)
            {
                ((float*)p.Lse)[(row * p.LseRowStride) + (head * p.LseHeadStride)] =
                    sum == 0 ? float.NegativeInfinity : max + MathF.Log2(sum);
            }
        }

        /// <summary>Adds states up.</summary>
        /// <returns>Their weight.</returns>
        private static float Sum(
            in MergeStatesParams p,
            long row,
            int others,
            long head,
            Span<float> merged,
            Span<float> state,
            out float max
        )
        {
            float firstLse = ((float*)p.FirstLse)[(row * p.FirstLseRowStride) + (head * p.FirstLseHeadStride)];
            float* otherLse = (float*)p.OtherLse + (row * p.OtherLseRowStride) + (head * p.OtherLseHeadStride);
            max = firstLse;
            for (int k = 0; k < others; k++)
            {
                max = Math.Max(max, otherLse[k * p.OtherLseStateStride]);
            }

            float sum = Add(p.First, (row * p.FirstRowStride) + (head * p.FirstHeadStride), firstLse, max, merged, state);
            for (int k = 0; k < others; k++)
            {
                long at = (row * p.OtherRowStride) + (k * p.OtherStateStride) + (head * p.OtherHeadStride);
                sum += Add(p.Other, at, otherLse[k * p.OtherLseStateStride], max, merged, state);
            }

            return sum;
        }

        /// <summary>Adds a state; that of no token weighs nothing, whatever lies there: it may never have been written.</summary>
        /// <returns>Its weight.</returns>
        private static float Add(nint outputs, long at, float lse, float max, Span<float> merged, Span<float> state)
        {
            if (lse == float.NegativeInfinity)
            {
                return 0;
            }

            fixed (float* wide = state)
            {
                TElement.Widen((byte*)outputs + (at * TElement.Size), wide, state.Length);
            }

            float weight = MathF.Pow(2, lse - max);
            TensorPrimitives.MultiplyAdd(state, weight, merged, merged);
            return weight;
        }
    }
}
