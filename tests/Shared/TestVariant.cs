namespace FlashInfer.Tests;

/// <summary>What plans of test variants are given; each variant reads what it wants of it.</summary>
internal readonly ref struct TestArguments
{
    public ReadOnlySpan<float> Slopes { get; init; }

    public float Temperature { get; init; }

    public int Window { get; init; }

    public ReadOnlySpan<int> Starts { get; init; }

    public ReadOnlySpan<bool> Groups { get; init; }

    public bool Flips { get; init; }
}

/// <summary>
/// A variant of attention as a generator would make it, by hand: CUDA text, and the same in C#, in double so that the oracle can ask it
/// too.
/// </summary>
internal abstract class TestVariant(string name, VariantHooks hooks, string cuda)
    : AttentionVariant<TestArguments>(hooks, Header + cuda + "\n};", "Slopes, Temperature, Window, Starts, Groups, Flips")
{
    private const string Header = """
        struct Variant : flashinfer::NoVariant {
          struct Arguments {
            flashinfer::Span<float> slopes;
            float temperature;
            flashinfer::i32 window;
            flashinfer::Span<flashinfer::i32> starts;
            flashinfer::Span<bool> groups;
            flashinfer::i32 flips;
          };
        """;

    // What Queried and Gated add.
    private const string MovedCuda = """
          static __device__ __forceinline__ float moved(const flashinfer::ElementContext& at, const Arguments& a) {
            const bool moves = (at.element + at.qo_index + at.kv_len) % 5 == (at.sequence + at.kv_head + at.qo_len) % 5;
            return moves ? a.slopes[at.head] : float(at.qo_position % 2) / 8.f;
          }

        """;

    /// <summary>Every variant.</summary>
    public static IReadOnlyList<TestVariant> All { get; } =
    [
        new Sloped(),
        new Dilated(),
        new Window(),
        new Started(),
        new Sinks(),
        new Tree(),
        new Counted(),
        new Queried(),
        new Gated(),
        new Everything(),
    ];

    public virtual double Transform(double logit, in LogitsContext at, in TestArguments a) => logit;

    public virtual bool Keep(in LogitsContext at, in TestArguments a) => true;

    public virtual int FirstKey(in LogitsContext at, in TestArguments a) => 0;

    public virtual double Sink(int head, in TestArguments a) => double.NegativeInfinity;

    public virtual double Query(double element, in ElementContext at, in TestArguments a) => element;

    public virtual double Output(double element, double lse2, in ElementContext at, in TestArguments a) => element;

    public override string ToString() => name;

    public override void Write(scoped in TestArguments arguments, VariantWriter writer)
    {
        writer.Write(arguments.Slopes);
        writer.Write(arguments.Temperature);
        writer.Write(arguments.Window);
        writer.Write(arguments.Starts);
        writer.Write(arguments.Groups);
        writer.Write(arguments.Flips);
    }

    public override void Apply(Span<float> logits, LogitsContext first, VariantReader arguments)
    {
        TestArguments a = Read(arguments);
        for (int i = 0; i < logits.Length; i++)
        {
            LogitsContext at = first with { KvPosition = first.KvPosition + i };
            logits[i] = Keep(at, a) ? (float)Transform(logits[i], at, a) : float.NegativeInfinity;
        }
    }

    public override int FirstKey(LogitsContext at, VariantReader arguments) => FirstKey(at, Read(arguments));

    public override float Sink(int head, VariantReader arguments) => (float)Sink(head, Read(arguments));

    public override void TransformQuery(Span<float> elements, ElementContext first, VariantReader arguments)
    {
        TestArguments a = Read(arguments);
        for (int i = 0; i < elements.Length; i++)
        {
            elements[i] = (float)Query(elements[i], first with { Element = first.Element + i }, a);
        }
    }

    public override void TransformOutput(Span<float> elements, float lse2, ElementContext first, VariantReader arguments)
    {
        TestArguments a = Read(arguments);
        for (int i = 0; i < elements.Length; i++)
        {
            elements[i] = (float)Output(elements[i], lse2, first with { Element = first.Element + i }, a);
        }
    }

    /// <summary>What <see cref="MovedCuda"/> says.</summary>
    private static double Moved(in ElementContext at, in TestArguments a) =>
        (at.Element + at.QoIndex + at.KvLen) % 5 == (at.Sequence + at.KvHead + at.QoLen) % 5 ? a.Slopes[at.Head] : at.QoPosition % 2 / 8.0;

    private static TestArguments Read(VariantReader reader) =>
        new()
        {
            Slopes = reader.ReadSpan<float>(),
            Temperature = reader.ReadSingle(),
            Window = reader.ReadInt32(),
            Starts = reader.ReadSpan<int>(),
            Groups = reader.ReadSpan<bool>(),
            Flips = reader.ReadBoolean(),
        };

    private sealed class Sloped()
        : TestVariant(
            nameof(Sloped),
            VariantHooks.Transform,
            """
              static constexpr bool kTransformsLogits = true;
              static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
                return logit / a.temperature + a.slopes[at.head] * (at.kv_position - at.qo_position);
              }
            """
        )
    {
        public override double Transform(double logit, in LogitsContext at, in TestArguments a) =>
            (logit / a.Temperature) + (a.Slopes[at.Head] * (at.KvPosition - at.QoPosition));
    }

    private sealed class Dilated()
        : TestVariant(
            nameof(Dilated),
            VariantHooks.Mask,
            """
              static constexpr bool kMasksLogits = true;
              static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
                return (at.kv_position + at.kv_head) % 3 == 0 || at.qo_position - at.kv_position < a.window;
              }
            """
        )
    {
        public override bool Keep(in LogitsContext at, in TestArguments a) =>
            (at.KvPosition + at.KvHead) % 3 == 0 || at.QoPosition - at.KvPosition < a.Window;
    }

    private sealed class Window()
        : TestVariant(
            nameof(Window),
            VariantHooks.FirstKey,
            """
              static constexpr bool kBoundsKeys = true;
              static __device__ __forceinline__ flashinfer::i32 first_key(const flashinfer::LogitsContext& at, const Arguments& a) {
                return at.qo_position - a.window;
              }
            """
        )
    {
        public override int FirstKey(in LogitsContext at, in TestArguments a) => at.QoPosition - a.Window;
    }

    /// <summary>Documents packed into a sequence: keys of the last one only; beyond the sequence's end now and then.</summary>
    private sealed class Started()
        : TestVariant(
            nameof(Started),
            VariantHooks.FirstKey,
            """
              static constexpr bool kBoundsKeys = true;
              static __device__ __forceinline__ flashinfer::i32 first_key(const flashinfer::LogitsContext& at, const Arguments& a) {
                return a.starts[at.sequence];
              }
            """
        )
    {
        public override int FirstKey(in LogitsContext at, in TestArguments a) => a.Starts[at.Sequence];
    }

    private sealed class Sinks()
        : TestVariant(
            nameof(Sinks),
            VariantHooks.Sink,
            """
              static constexpr bool kHasSink = true;
              static __device__ __forceinline__ float sink(flashinfer::i32 head, const Arguments& a) { return 8.f * a.slopes[head]; }
            """
        )
    {
        public override double Sink(int head, in TestArguments a) => 8.0 * a.Slopes[head];
    }

    /// <summary>By the query token's place in the call and its sequence's lengths; hides all keys of some.</summary>
    private sealed class Tree()
        : TestVariant(
            nameof(Tree),
            VariantHooks.Mask,
            """
              static constexpr bool kMasksLogits = true;
              static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
                return (at.qo_index * 5 + at.kv_position * 3 + at.kv_len) % 7 < at.qo_index % 4 + at.qo_len % 2 && a.groups[at.head];
              }
            """
        )
    {
        public override bool Keep(in LogitsContext at, in TestArguments a) =>
            ((at.QoIndex * 5) + (at.KvPosition * 3) + at.KvLen) % 7 < (at.QoIndex % 4) + (at.QoLen % 2) && a.Groups[at.Head];
    }

    /// <summary>By a loop, around which no products of a warpgroup may be under way.</summary>
    private sealed class Counted()
        : TestVariant(
            nameof(Counted),
            VariantHooks.Mask,
            """
              static constexpr bool kMasksLogits = true;
              static constexpr bool kHasLoops = true;
              static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
                int ones = 0;
                for (int rest = at.kv_position + a.window; rest > 0; rest >>= 1) ones += rest & 1;
                return ones % 3 != 0;
              }
            """
        )
    {
        public override bool Keep(in LogitsContext at, in TestArguments a) => int.PopCount(at.KvPosition + a.Window) % 3 != 0;
    }

    /// <summary>Asks for all that it is told, since each kernel finds an element's place in its own way.</summary>
    private sealed class Queried()
        : TestVariant(
            nameof(Queried),
            VariantHooks.QueryTransform,
            MovedCuda
                + """
                  static constexpr bool kTransformsQuery = true;
                  static __device__ __forceinline__ float transform_query(float element, const flashinfer::ElementContext& at, const Arguments& a) {
                    return element * a.temperature + moved(at, a);
                  }
                """
        )
    {
        public override double Query(double element, in ElementContext at, in TestArguments a) => (element * a.Temperature) + Moved(at, a);
    }

    /// <summary>As <see cref="Queried"/>; what rows that see no key get, too.</summary>
    private sealed class Gated()
        : TestVariant(
            nameof(Gated),
            VariantHooks.OutputTransform,
            MovedCuda
                + """
                  static constexpr bool kTransformsOutput = true;
                  static __device__ __forceinline__ float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments& a) {
                    return element / (1.f + exp2f(-lse2)) + moved(at, a);
                  }
                """
        )
    {
        public override double Output(double element, double lse2, in ElementContext at, in TestArguments a) =>
            (element / (1 + Math.Pow(2, -lse2))) + Moved(at, a);
    }

    private sealed class Everything()
        : TestVariant(
            nameof(Everything),
            VariantHooks.Transform
                | VariantHooks.Mask
                | VariantHooks.FirstKey
                | VariantHooks.Sink
                | VariantHooks.QueryTransform
                | VariantHooks.OutputTransform,
            """
              static constexpr bool kTransformsLogits = true;
              static constexpr bool kMasksLogits = true;
              static constexpr bool kBoundsKeys = true;
              static constexpr bool kHasSink = true;
              static __device__ __forceinline__ float transform(float logit, const flashinfer::LogitsContext& at, const Arguments& a) {
                return (a.flips ? -logit : logit) + a.slopes[at.head] * (at.kv_position - at.qo_position);
              }
              static __device__ __forceinline__ bool keep(const flashinfer::LogitsContext& at, const Arguments& a) {
                return at.kv_position % 4 != at.sequence % 4;
              }
              static __device__ __forceinline__ flashinfer::i32 first_key(const flashinfer::LogitsContext& at, const Arguments& a) {
                return at.qo_position - 2 * a.window;
              }
              static __device__ __forceinline__ float sink(flashinfer::i32 head, const Arguments& a) { return a.slopes[head]; }
              static constexpr bool kTransformsQuery = true;
              static __device__ __forceinline__ float transform_query(float element, const flashinfer::ElementContext& at, const Arguments& a) {
                return at.element % 2 == at.qo_index % 2 ? element * a.temperature : -element;
              }
              static constexpr bool kTransformsOutput = true;
              static __device__ __forceinline__ float transform_output(float element, float lse2, const flashinfer::ElementContext& at, const Arguments& a) {
                return element + a.slopes[at.head];
              }
            """
        )
    {
        public override double Transform(double logit, in LogitsContext at, in TestArguments a) =>
            (a.Flips ? -logit : logit) + (a.Slopes[at.Head] * (at.KvPosition - at.QoPosition));

        public override bool Keep(in LogitsContext at, in TestArguments a) => at.KvPosition % 4 != at.Sequence % 4;

        public override int FirstKey(in LogitsContext at, in TestArguments a) => at.QoPosition - (2 * a.Window);

        public override double Sink(int head, in TestArguments a) => a.Slopes[head];

        public override double Query(double element, in ElementContext at, in TestArguments a) =>
            at.Element % 2 == at.QoIndex % 2 ? element * a.Temperature : -element;

        public override double Output(double element, double lse2, in ElementContext at, in TestArguments a) => element + a.Slopes[at.Head];
    }
}
