using System.Linq;

namespace FlashInfer.Generators.Emit;

/// <summary>The shells that every configuration gets.</summary>
internal static class Shells
{
    /// <summary>Their names.</summary>
    public static readonly string[] Names =
    {
        "PagedKvCache",
        "BatchDecodeWithPagedKvCache",
        "BatchPrefillWithPagedKvCache",
        "MultiLevelCascadeAttention",
        "BatchPrefillWithRaggedKvCache",
        "SinglePrefill",
        "SingleDecode",
    };

    private const string Planned = "Attends with the query tokens of the planned sequences";

    private static readonly Parameter s_device = new("global::FlashInfer.Device", "device", "The device.");
    private static readonly Parameter s_layer = new("int", "layer", "The layer, from 0.");
    private static readonly Parameter s_maxSequences = new("int", "maxSequences", "Sequences of the largest batch, 1 to 65,536.", "1024");

    private static readonly Parameter s_maxPrefillTokens = new(
        "int",
        "maxQueryTokens",
        "Query tokens of all sequences of the largest batch together, 1 to 4,194,304.",
        "16384"
    );

    private static readonly Parameter s_determinism = new(
        "global::FlashInfer.Determinism",
        "determinism",
        "On what the bits of a sequence's results may depend.",
        "global::FlashInfer.Determinism.Reproducible"
    );

    private static readonly Parameter s_maxStagedTokens = new(
        "int",
        "maxStagedTokens",
        "Tokens of the largest batch whose keys and values may be staged, where that is done, 0 for none.",
        "32768"
    );

    private static readonly Parameter s_sequences = new(Span("global::FlashInfer.Sequence"), "sequences", "Sequences of the cache.");
    private static readonly Parameter s_queryTokens = new(Span("int"), "queryTokens", "Query tokens of each sequence.");

    public static Shell[] Of(ConfigText text)
    {
        Shell[] cache = text.HasCache ? [Cache(text), Decode(text)] : [];
        Shell[] paged = text.HasCache && text.HasPrefill ? [PrefillPaged(text)] : [];
        Shell[] cascade = text.HasCascade ? [Cascade(text)] : [];
        Shell[] ragged = text.HasPrefill ? [PrefillRagged(text), SinglePrefill(text), SingleDecode(text)] : [];
        return [.. cache, .. paged, .. cascade, .. ragged];
    }

    private static Shell Cache(ConfigText text)
    {
        const string Append = "into one layer. Needs no plan; in a step that decodes, the wrapper's <c>Append</c> does it.";
        Parameter sequence = new("global::FlashInfer.Sequence", "sequence", "A sequence with a forward open.")
        {
            Passed = $"new {Span("global::FlashInfer.Sequence")}(in sequence)",
        };
        Parameter sequences = s_sequences with { Words = "Different sequences with a forward open." };
        return new Shell(
            "PagedKvCache",
            $"Paged KV cache of {text.KvHeads} kvHeads, headDim {text.HeadDim}, {text.PageSize} tokens a page, {text.KvDtype.Words} {text.KvLayout.Words}.",
            new ShellMethod(
                "Allocates the pages of all layers at once.",
                WithSpec(text),
                new Parameter("int", "layers", "Layers of the model."),
                new Parameter("int", "pages", $"Pages of {text.PageSize} tokens, shared by all sequences.")
            )
        )
        {
            Appends =
            [
                new(
                    $"Writes the keys and values of one open forward {Append}",
                    [s_layer, sequence, .. KeyValue(text, $"{text.Key("tokens")}."), Parameter.Stream]
                ),
                new(
                    $"Writes the keys and values of the open forwards of a batch {Append}",
                    [
                        s_layer,
                        sequences,
                        .. KeyValue(text, $"{text.Key("tokens")}: the new tokens of the first sequence, then of the second, ..."),
                        Parameter.Stream,
                    ]
                ),
            ],
        };
    }

    private static Shell Decode(ConfigText text)
    {
        Parameter maxQueryTokens = new(
            "int",
            "maxQueryTokens",
            "The most query tokens of a sequence, 1 to 8; more than 1 for speculative decoding.",
            "1"
        );
        return OverCache(
            text,
            "BatchDecodeWithPagedKvCache",
            "Batch decode, one query token a sequence or a few",
            maxQueryTokens,
            new ShellPlan(
                "Plans a step with one query token for each sequence, its last.",
                [s_sequences],
                [SmScale(text), Parameter.Stream]
            )
        );
    }

    private static Shell PrefillPaged(ConfigText text)
    {
        Shell shell = OverCache(
            text,
            "BatchPrefillWithPagedKvCache",
            "Batch prefill, any number of query tokens a sequence",
            s_maxPrefillTokens,
            new ShellPlan("Plans a step whose query tokens are those of each sequence's open forward.", [s_sequences], Options(text))
        );
        Parameter[] parameters = [.. shell.Constructor.Parameters, s_maxStagedTokens];
        return shell with { Constructor = shell.Constructor with { Parameters = parameters } };
    }

    private static Shell Cascade(ConfigText text)
    {
        Shell shell = OverCache(
            text,
            "MultiLevelCascadeAttention",
            "Batch attention that reads pages which forked sequences share once for all of them",
            s_maxPrefillTokens with
            {
                Default = "4096",
            },
            new ShellPlan(
                "Plans a step whose query tokens are those of each sequence's open forward; sequences that share pages stand next to each other.",
                [s_sequences],
                Options(text)
            )
        );
        Parameter maxLevels = new(
            "int",
            "maxLevels",
            "Levels, 2 to 8: shared ones, and the last, which every sequence has for itself.",
            "2"
        );
        Parameter[] parameters = [.. shell.Constructor.Parameters.Where(static parameter => parameter != s_determinism), maxLevels];
        return shell with { Constructor = shell.Constructor with { Parameters = parameters } };
    }

    private static Shell PrefillRagged(ConfigText text) =>
        new(
            "BatchPrefillWithRaggedKvCache",
            $"Batch prefill over ragged keys and values, those of all sequences behind one another: {text.Heads} heads on {text.KvHeads} kvHeads.",
            new ShellMethod(
                "Makes a wrapper on a device.",
                WithSpec(text),
                s_maxSequences,
                s_maxPrefillTokens,
                s_determinism,
                s_maxStagedTokens
            )
        )
        {
            Plans =
            [
                new(
                    "Plans a step.",
                    [
                        new(Span("int"), "qoIndptr", "Where each sequence's rows of query and output start, and where the last one's end."),
                        new(Span("int"), "kvIndptr", "The same for rows of key and value."),
                    ],
                    Options(text)
                ),
            ],
            Run = new(Planned, [Query(text, "as qoIndptr said"), .. KeyValue(text, $"{text.Key("tokens")}, as kvIndptr said.")]),
        };

    private static Shell SinglePrefill(ConfigText text) =>
        new(
            "SinglePrefill",
            $"Attention of one sequence with any number of query tokens, without cache and plan: {text.Heads} heads on {text.KvHeads} kvHeads.",
            new ShellMethod(
                "Makes the workspace and gets the kernel ready.",
                WithSpec(text),
                s_maxPrefillTokens with
                {
                    Words = "The most query tokens of a call, 1 to 4,194,304.",
                },
                s_determinism,
                s_maxStagedTokens
            )
        )
        {
            Run = new(
                "Attends with the query tokens, which are the sequence's last",
                [Parameter.Tensor("Query", "query", $"{text.Query("qoLen")}."), .. KeyValue(text, $"{text.Key("kvLen")}.")]
            )
            {
                Rows = "qoLen",
                Options = Options(text),
                Plans = true,
            },
        };

    private static Shell SingleDecode(ConfigText text) =>
        new(
            "SingleDecode",
            $"Attention of one sequence's last token, without cache and plan: {text.Heads} heads on {text.KvHeads} kvHeads.",
            new ShellMethod("Makes the workspace and gets the kernel ready.", WithSpec(text), s_determinism)
        )
        {
            Run = new(
                "Attends with the query token, which sees the whole sequence",
                [Parameter.Tensor("Query", "query", $"{text.Query("1")}."), .. KeyValue(text, $"{text.Key("kvLen")}.")]
            )
            {
                Rows = "1",
                Options = [SmScale(text), Parameter.Stream],
                Plans = true,
            },
        };

    // What the wrappers over a cache have in common.
    private static Shell OverCache(ConfigText text, string name, string what, Parameter maxQueryTokens, ShellPlan first) =>
        new(
            name,
            $"{what}, over this configuration's cache: {text.Heads} heads on {text.KvHeads} kvHeads.",
            new ShellMethod(
                "Makes a wrapper over a cache.",
                new Parameter("PagedKvCache", "cache", "The cache that holds the sequences."),
                s_maxSequences,
                maxQueryTokens,
                s_determinism
            )
        )
        {
            Plans =
            [
                first,
                new(
                    "Plans a step with a number of query tokens for each sequence, its last ones.",
                    [s_sequences, s_queryTokens],
                    Options(text)
                ),
            ],
            Appends =
            [
                new(
                    "Writes the keys and values of the planned sequences' open forwards into one layer; the cache's <c>Append</c> does it without a plan.",
                    [
                        s_layer,
                        .. KeyValue(text, $"{text.Key("tokens")}: the new tokens of the first planned sequence, then of the second, ..."),
                        Parameter.Stream,
                    ]
                ),
            ],
            Run = new(Planned, [s_layer, Query(text, "in the order of the plan")]),
        };

    // The specification is the configuration's: the base class has a member of that name.
    private static Parameter WithSpec(ConfigText text) => s_device with { Passed = $"device, {text.FullName}.Spec" };

    private static Parameter Query(ConfigText text, string order) =>
        Parameter.Tensor("Query", "query", $"{text.Query("rows")}: a row for each query token, {order}.");

    private static Parameter[] KeyValue(ConfigText text, string words) =>
        [
            Parameter.Tensor("Key", "key", words),
            Parameter.Tensor("Value", "value", $"As <paramref name=\"key\"/>{(text.HasCache ? "" : $", with heads of {text.ValueDim}")}."),
        ];

    private static Parameter SmScale(ConfigText text) =>
        new("float?", "smScale", $"What logits are multiplied by; 1 / sqrt({text.HeadDim}) when null.", "null");

    private static Parameter[] Options(ConfigText text) =>
        [
            SmScale(text),
            new("bool", "causal", "Whether a query token sees the tokens up to its own only, else all of the sequence.", "true"),
            Parameter.Stream,
        ];

    private static string Span(string element) => $"global::System.ReadOnlySpan<{element}>";
}
