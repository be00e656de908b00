namespace FlashInfer.Generators.Emit;

/// <summary>
/// Writes the typed shells over the runtime's cache and wrappers: they fix the configuration and the tensor roles in their signatures
/// and hold no logic. Spec is named in full, since the base class has a member of that name.
/// </summary>
internal static class WrapperEmitter
{
    public const string CacheName = "PagedKvCache";
    public const string DecodeName = "BatchDecodeWithPagedKvCache";

    public static void Emit(CodeWriter code, ConfigText text)
    {
        Cache(code, text);
        Decode(code, text);
    }

    private static void Cache(CodeWriter code, ConfigText text) =>
        code.Block(
            $$"""

            /// <summary>Paged KV cache of {{text.KvHeads}} kvHeads, headDim {{text.HeadDim}}, {{text.PageSize}} tokens a page, {{text.KvDtype.Words}} {{text.KvLayout.Words}}.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public sealed class {{CacheName}} : global::FlashInfer.{{CacheName}}
            {
                /// <summary>Allocates the pages of all layers at once.</summary>
                /// <param name="device">The device.</param>
                /// <param name="layers">Layers of the model.</param>
                /// <param name="pages">Pages of {{text.PageSize}} tokens, shared by all sequences.</param>
                public {{CacheName}}(global::FlashInfer.Device device, int layers, int pages)
                    : base(device, {{text.FullName}}.Spec, layers, pages) { }

                /// <summary>Writes the begun tokens of several sequences.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="sequences">Sequences between BeginForward and EndForward.</param>
                /// <param name="key">[tokens, {{text.KvHeads}}, {{text.HeadDim}}]: the tokens of the first sequence, then those of the next.</param>
                /// <param name="value">As <paramref name="key"/>.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Append(int layer, global::System.ReadOnlySpan<global::FlashInfer.Sequence> sequences, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Append(layer, sequences, key.View, value.View, stream);

                /// <summary>Writes the begun tokens of one sequence.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="sequence">A sequence between BeginForward and EndForward.</param>
                /// <param name="key">[tokens, {{text.KvHeads}}, {{text.HeadDim}}].</param>
                /// <param name="value">As <paramref name="key"/>.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Append(int layer, global::FlashInfer.Sequence sequence, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Append(layer, new global::System.ReadOnlySpan<global::FlashInfer.Sequence>(in sequence), key.View, value.View, stream);
            }
            """
        );

    private static void Decode(CodeWriter code, ConfigText text) =>
        code.Block(
            $$"""

            /// <summary>Batch decode, one new token a sequence, over this configuration's cache: {{text.Heads}} heads on {{text.KvHeads}} kvHeads.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public sealed class {{DecodeName}} : global::FlashInfer.{{DecodeName}}
            {
                /// <summary>Makes a wrapper over a cache.</summary>
                /// <param name="cache">The cache that holds the sequences.</param>
                /// <param name="maxSequences">Sequences that one plan may hold.</param>
                public {{DecodeName}}({{CacheName}} cache, int maxSequences = 1024)
                    : base(cache, maxSequences) { }

                /// <summary>Writes the new token of each planned sequence.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="key">[sequences, {{text.KvHeads}}, {{text.HeadDim}}].</param>
                /// <param name="value">As <paramref name="key"/>.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Append(int layer, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Append(layer, key.View, value.View, stream);

                /// <summary>Attends the planned sequences' queries to their cached tokens.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="query">[sequences, {{text.Heads}}, {{text.HeadDim}}].</param>
                /// <param name="output">[sequences, {{text.Heads}}, {{text.HeadDim}}]; overwritten.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Run(int layer, Query query, Output output, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Run(layer, query.View, output.View, default, stream);

                /// <summary>Attends the planned sequences' queries to their cached tokens, and gives the log-sum-exp.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="query">[sequences, {{text.Heads}}, {{text.HeadDim}}].</param>
                /// <param name="output">[sequences, {{text.Heads}}, {{text.HeadDim}}]; overwritten.</param>
                /// <param name="lse">[sequences, {{text.Heads}}], base 2; overwritten.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Run(int layer, Query query, Output output, Lse2 lse, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Run(layer, query.View, output.View, lse.View, stream);

                /// <summary>As the overload with an output, which this one allocates: for tools and tests, not for a step that must not allocate.</summary>
                /// <param name="layer">The layer.</param>
                /// <param name="query">[sequences, {{text.Heads}}, {{text.HeadDim}}].</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                /// <returns>[sequences, {{text.Heads}}, {{text.HeadDim}}]; the caller disposes it.</returns>
                public Output Run(int layer, Query query, global::FlashInfer.Cuda.CudaStream? stream = null)
                {
                    Output output = AllocateOutput(query.View.Device, query.Tokens);
                    try
                    {
                        Run(layer, query, output, stream);
                        return output;
                    }
                    catch
                    {
                        output.Dispose();
                        throw;
                    }
                }
            }
            """
        );
}
