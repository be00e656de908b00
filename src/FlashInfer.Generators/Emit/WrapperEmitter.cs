using FlashInfer.Generators.Model;

namespace FlashInfer.Generators.Emit;

/// <summary>
/// Writes the typed shells over the runtime's cache and wrappers: they fix the configuration and the tensor roles in their signatures
/// and hold no logic. Where no overload fits, the compiler compares with the first one written, so the order decides how clear its error
/// is: the longest, and the simplest. Spec is named in full, since the base class has a member of that name.
/// </summary>
internal static class WrapperEmitter
{
    public const string CacheName = "PagedKvCache";
    public const string DecodeName = "BatchDecodeWithPagedKvCache";
    public const string PrefillPagedName = "BatchPrefillWithPagedKvCache";
    public const string PrefillRaggedName = "BatchPrefillWithRaggedKvCache";

    // Parameters of Plan.
    private const string Sequences = "global::System.ReadOnlySpan<global::FlashInfer.Sequence> sequences";
    private const string QueryTokens = "global::System.ReadOnlySpan<int> queryTokens";

    public static void Emit(CodeWriter code, ConfigText text, VariantModel? variant)
    {
        Cache(code, text);
        Decode(code, text, variant);
        PrefillPaged(code, text, variant);
        PrefillRagged(code, text, variant);
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

                /// <summary>Writes the keys and values of one open forward into one layer. Needs no plan; in a step that decodes, the wrapper's <c>Append</c> does it.</summary>
                /// <param name="layer">The layer, from 0.</param>
                /// <param name="sequence">A sequence with a forward open.</param>
                /// <param name="key">[tokens, {{text.KvHeads}}, {{text.HeadDim}}].</param>
                /// <param name="value">As <paramref name="key"/>.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Append(int layer, global::FlashInfer.Sequence sequence, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Append(layer, new global::System.ReadOnlySpan<global::FlashInfer.Sequence>(in sequence), key.View, value.View, stream);

                /// <summary>Writes the keys and values of the open forwards of a batch into one layer. Needs no plan; in a step that decodes, the wrapper's <c>Append</c> does it.</summary>
                /// <param name="layer">The layer, from 0.</param>
                /// <param name="sequences">Different sequences with a forward open.</param>
                /// <param name="key">[tokens, {{text.KvHeads}}, {{text.HeadDim}}]: the new tokens of the first sequence, then of the second, ...</param>
                /// <param name="value">As <paramref name="key"/>.</param>
                /// <param name="stream">A stream; the device's own when null.</param>
                public void Append(int layer, global::System.ReadOnlySpan<global::FlashInfer.Sequence> sequences, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                    base.Append(layer, sequences, key.View, value.View, stream);
            }
            """
        );

    private static void Decode(CodeWriter code, ConfigText text, VariantModel? variant)
    {
        code.Block(
            $$"""

            /// <summary>Batch decode, one query token a sequence or a few, over this configuration's cache: {{text.Heads}} heads on {{text.KvHeads}} kvHeads.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public sealed class {{DecodeName}} : global::FlashInfer.{{DecodeName}}
            """
        );
        code.Open();
        code.Block(
            $$"""
            /// <summary>Makes a wrapper over a cache.</summary>
            /// <param name="cache">The cache that holds the sequences.</param>
            /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
            /// <param name="maxQueryTokens">The most query tokens of a sequence, 1 to 8; more than 1 for speculative decoding.</param>
            /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
            public {{DecodeName}}({{CacheName}} cache, int maxSequences = 1024, int maxQueryTokens = 1, global::FlashInfer.Determinism determinism = global::FlashInfer.Determinism.Reproducible)
                : base(cache, maxSequences, maxQueryTokens, determinism) { }
            """
        );
        VariantEmitter.Plan(
            code,
            text,
            variant,
            "Plans a step with one query token for each sequence, its last.",
            "/// <param name=\"sequences\">Sequences of the cache.</param>",
            Sequences,
            "sequences",
            causal: false
        );
        PlanQueryTokens(code, text, variant);
        Append(code, text);
        RunPaged(code, text);
        code.Close();
    }

    private static void PrefillPaged(CodeWriter code, ConfigText text, VariantModel? variant)
    {
        code.Block(
            $$"""

            /// <summary>Batch prefill, any number of query tokens a sequence, over this configuration's cache: {{text.Heads}} heads on {{text.KvHeads}} kvHeads.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public sealed class {{PrefillPagedName}} : global::FlashInfer.{{PrefillPagedName}}
            """
        );
        code.Open();
        code.Block(
            $$"""
            /// <summary>Makes a wrapper over a cache.</summary>
            /// <param name="cache">The cache that holds the sequences.</param>
            /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
            /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304.</param>
            /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
            public {{PrefillPagedName}}({{CacheName}} cache, int maxSequences = 1024, int maxQueryTokens = 16384, global::FlashInfer.Determinism determinism = global::FlashInfer.Determinism.Reproducible)
                : base(cache, maxSequences, maxQueryTokens, determinism) { }
            """
        );
        VariantEmitter.Plan(
            code,
            text,
            variant,
            "Plans a step whose query tokens are those of each sequence's open forward.",
            "/// <param name=\"sequences\">Sequences of the cache.</param>",
            Sequences,
            "sequences",
            causal: true
        );
        PlanQueryTokens(code, text, variant);
        Append(code, text);
        RunPaged(code, text);
        code.Close();
    }

    private static void PrefillRagged(CodeWriter code, ConfigText text, VariantModel? variant)
    {
        code.Block(
            $$"""

            /// <summary>Batch prefill over ragged keys and values, those of all sequences behind one another: {{text.Heads}} heads on {{text.KvHeads}} kvHeads.</summary>
            {{ConfigEmitter.GeneratedCode}}
            public sealed class {{PrefillRaggedName}} : global::FlashInfer.{{PrefillRaggedName}}
            """
        );
        code.Open();
        code.Block(
            $$"""
            /// <summary>Makes a wrapper on a device.</summary>
            /// <param name="device">The device.</param>
            /// <param name="maxSequences">Sequences of the largest batch, 1 to 65,536.</param>
            /// <param name="maxQueryTokens">Query tokens of all sequences of the largest batch together, 1 to 4,194,304.</param>
            /// <param name="determinism">On what the bits of a sequence's results may depend.</param>
            public {{PrefillRaggedName}}(global::FlashInfer.Device device, int maxSequences = 1024, int maxQueryTokens = 16384, global::FlashInfer.Determinism determinism = global::FlashInfer.Determinism.Reproducible)
                : base(device, {{text.FullName}}.Spec, maxSequences, maxQueryTokens, determinism) { }
            """
        );
        VariantEmitter.Plan(
            code,
            text,
            variant,
            "Plans a step.",
            """
            /// <param name="qoIndptr">Where each sequence's rows of query and output start, and where the last one's end.</param>
            /// <param name="kvIndptr">The same for rows of key and value.</param>
            """,
            "global::System.ReadOnlySpan<int> qoIndptr, global::System.ReadOnlySpan<int> kvIndptr",
            "qoIndptr, kvIndptr",
            causal: true
        );
        Run(
            code,
            text,
            $"""
            /// <param name="query">[rows, {text.Heads}, {text.HeadDim}]: a row for each query token, as qoIndptr said.</param>
            /// <param name="key">[tokens, {text.KvHeads}, {text.HeadDim}], as kvIndptr said.</param>
            /// <param name="value">As <paramref name="key"/>.</param>
            """,
            "Query query, Key key, Value value",
            "query, key, value",
            "query.View, key.View, value.View"
        );
        code.Close();
    }

    private static void PlanQueryTokens(CodeWriter code, ConfigText text, VariantModel? variant) =>
        VariantEmitter.Plan(
            code,
            text,
            variant,
            "Plans a step with a number of query tokens for each sequence, its last ones.",
            """
            /// <param name="sequences">Sequences of the cache.</param>
            /// <param name="queryTokens">Query tokens of each sequence.</param>
            """,
            $"{Sequences}, {QueryTokens}",
            "sequences, queryTokens",
            causal: true
        );

    private static void Append(CodeWriter code, ConfigText text) =>
        code.Block(
            $$"""

            /// <summary>Writes the keys and values of the planned sequences' open forwards into one layer; the cache's <c>Append</c> does it without a plan.</summary>
            /// <param name="layer">The layer, from 0.</param>
            /// <param name="key">[tokens, {{text.KvHeads}}, {{text.HeadDim}}]: the new tokens of the first planned sequence, then of the second, ...</param>
            /// <param name="value">As <paramref name="key"/>.</param>
            /// <param name="stream">A stream; the device's own when null.</param>
            public void Append(int layer, Key key, Value value, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                base.Append(layer, key.View, value.View, stream);
            """
        );

    private static void RunPaged(CodeWriter code, ConfigText text) =>
        Run(
            code,
            text,
            $"""
            /// <param name="layer">The layer, from 0.</param>
            /// <param name="query">[rows, {text.Heads}, {text.HeadDim}]: a row for each query token, in the order of the plan.</param>
            """,
            "int layer, Query query",
            "layer, query",
            "layer, query.View"
        );

    /// <summary>The overloads of Run: with the inputs as parameters, as arguments, and as views.</summary>
    private static void Run(CodeWriter code, ConfigText text, string documentation, string parameters, string arguments, string views) =>
        code.Block(
            $$"""

            /// <summary>Attends with the query tokens of the planned sequences, and gives the log-sum-exp.</summary>
            {{documentation}}
            /// <param name="output">[rows, {{text.Heads}}, {{text.HeadDim}}]; every element is written.</param>
            /// <param name="lse">[rows, {{text.Heads}}], base 2; every element is written.</param>
            /// <param name="stream">A stream; the device's own when null.</param>
            public void Run({{parameters}}, Output output, Lse2 lse, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                base.Run({{views}}, output.View, lse.View, stream);

            /// <summary>Attends with the query tokens of the planned sequences.</summary>
            {{documentation}}
            /// <param name="output">[rows, {{text.Heads}}, {{text.HeadDim}}]; every element is written.</param>
            /// <param name="stream">A stream; the device's own when null.</param>
            public void Run({{parameters}}, Output output, global::FlashInfer.Cuda.CudaStream? stream = null) =>
                base.Run({{views}}, output.View, default, stream);

            /// <summary>As the overload with an output, which this one allocates: for tools and tests, not for a step that must not allocate.</summary>
            {{documentation}}
            /// <param name="stream">A stream; the device's own when null.</param>
            /// <returns>[rows, {{text.Heads}}, {{text.HeadDim}}]; the caller disposes it.</returns>
            public Output Run({{parameters}}, global::FlashInfer.Cuda.CudaStream? stream = null)
            {
                Output output = AllocateOutput(query.View.Device, query.Tokens);
                try
                {
                    Run({{arguments}}, output, stream);
                    return output;
                }
                catch
                {
                    output.Dispose();
                    throw;
                }
            }
            """
        );
}
