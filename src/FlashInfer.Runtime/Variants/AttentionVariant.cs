using FlashInfer.Attention;

namespace FlashInfer;

/// <summary>
/// A variant of attention, once for each place that runs it: as CUDA text for the units of a configuration, and as methods that planners
/// and the CPU device call. The generator derives one from a configuration's marked methods; <see cref="AttentionSpec"/> carries it.
/// </summary>
public abstract class AttentionVariant
{
    /// <summary>Makes a variant without arguments.</summary>
    /// <param name="hooks">What it does.</param>
    /// <param name="cuda">CUDA text of <c>struct Variant : flashinfer::NoVariant</c>, which does the same, behind the <c>#include</c>s that it needs.</param>
    protected AttentionVariant(VariantHooks hooks, string cuda)
    {
        ArgumentNullException.ThrowIfNull(cuda);
        Hooks = hooks;
        Cuda = cuda;
    }

    /// <summary>The library's own options as a variant, for a configuration made at run time; null for none.</summary>
    /// <param name="options">The options; of the two forms of masks and of the two of RoPE one at most.</param>
    /// <param name="rotaryDim">With <see cref="AttentionOptions.Rope"/> or <see cref="AttentionOptions.RopeInterleaved"/>, how many of a head's elements turn, from the first on: a multiple of 8, or 0 for all of them.</param>
    public static AttentionVariant? Of(AttentionOptions options, int rotaryDim = 0) =>
        options == AttentionOptions.None && rotaryDim == 0 ? null : new OptionVariant(options, rotaryDim);

    /// <summary>What it does.</summary>
    public VariantHooks Hooks { get; }

    /// <summary>CUDA text of <c>struct Variant : flashinfer::NoVariant</c>.</summary>
    public string Cuda { get; }

    /// <summary>Whether it does one of these things.</summary>
    internal bool Does(VariantHooks hooks) => (Hooks & hooks) != 0;

    /// <summary>What plans have to be given, for messages; null when nothing.</summary>
    internal virtual string? ArgumentNames => null;

    /// <summary>Whether it turns queries and keys with their positions, as <see cref="Rotation"/> says.</summary>
    internal virtual bool Rotates => false;

    /// <summary>Whether it says itself which keys are seen, instead of causality.</summary>
    internal virtual bool ReplacesCausality => false;

    /// <summary>Whether it does the same to logits wherever tokens stand and whosever they are, and adds none: levels of a cascade may each do it.</summary>
    internal virtual bool IsPositionFree => false;

    /// <summary>
    /// Replaces the logits of one query token and head for consecutive keys: by what the transform makes of them, or by -infinity where the
    /// mask hides the key. Called on several threads.
    /// </summary>
    /// <param name="logits">smScale * q . k with all scales of the keys, in natural units.</param>
    /// <param name="first">Where the first of them stands.</param>
    /// <param name="arguments">The plan's arguments.</param>
    public virtual void Apply(Span<float> logits, LogitsContext first, VariantReader arguments) { }

    /// <summary>The first key that a query token may see.</summary>
    /// <param name="at">The query token; the key's position and the heads are 0.</param>
    /// <param name="arguments">The plan's arguments.</param>
    public virtual int FirstKey(LogitsContext at, VariantReader arguments) => 0;

    /// <summary>Whether it hides keys between others, as <see cref="Skipped"/> says, so that prefill leaves out whole blocks of them.</summary>
    internal virtual bool SkipsKeys => false;

    /// <summary>Keys from the first on, before the end, that a query token skips, and no later one of its sequence sees.</summary>
    /// <param name="at">As for <see cref="FirstKey"/>.</param>
    /// <param name="arguments">The plan's arguments.</param>
    internal virtual (int First, int End) Skipped(LogitsContext at, VariantReader arguments) => default;

    /// <summary>The logit without a value that joins a head's softmax.</summary>
    /// <param name="head">The query head.</param>
    /// <param name="arguments">The plan's arguments.</param>
    public virtual float Sink(int head, VariantReader arguments) => float.NegativeInfinity;

    /// <summary>Replaces neighbouring elements of a query token's head. Called on several threads.</summary>
    /// <param name="elements">The elements.</param>
    /// <param name="first">Where the first of them stands.</param>
    /// <param name="arguments">The plan's arguments.</param>
    public virtual void TransformQuery(Span<float> elements, ElementContext first, VariantReader arguments) { }

    /// <summary>Replaces neighbouring elements of a query token's and head's output. Called on several threads.</summary>
    /// <param name="elements">The elements, divided by the sum of weights.</param>
    /// <param name="lse2">Base-2 log-sum-exp of the row, its sink included; -infinity where the query token sees no key.</param>
    /// <param name="first">Where the first of them stands.</param>
    /// <param name="arguments">The plan's arguments.</param>
    public virtual void TransformOutput(Span<float> elements, float lse2, ElementContext first, VariantReader arguments) { }

    /// <summary>How queries and keys turn with their positions before their product.</summary>
    /// <param name="arguments">The plan's arguments.</param>
    internal virtual Rotation Rotation(VariantReader arguments) => default;
}

/// <summary>How queries and keys turn with their positions.</summary>
/// <param name="angles">How far each pair of elements turns from a position to the next, in 2^-32 turns.</param>
/// <param name="turnsNeighbours">Whether neighbours are pairs; else one in the first half of the turning elements and one in the second.</param>
internal readonly ref struct Rotation(ReadOnlySpan<uint> angles, bool turnsNeighbours)
{
    public readonly ReadOnlySpan<uint> Angles = angles;
    public readonly bool TurnsNeighbours = turnsNeighbours;
}

/// <summary>A variant of attention whose plans are given arguments.</summary>
/// <typeparam name="TArguments">The arguments: scalars and spans.</typeparam>
public abstract class AttentionVariant<TArguments> : AttentionVariant
    where TArguments : allows ref struct
{
    /// <summary>Makes a variant.</summary>
    /// <param name="hooks">What it does.</param>
    /// <param name="cuda">CUDA text of <c>struct Variant : flashinfer::NoVariant</c>, which does the same, behind the <c>#include</c>s that it needs.</param>
    /// <param name="argumentNames">The names of the arguments, for messages: "Slopes, Temperature".</param>
    protected AttentionVariant(VariantHooks hooks, string cuda, string argumentNames)
        : base(hooks, cuda)
    {
        ArgumentNullException.ThrowIfNull(argumentNames);
        ArgumentNames = argumentNames;
    }

    internal sealed override string? ArgumentNames { get; }

    /// <summary>Writes a plan's arguments, those of <c>struct Arguments</c> in the CUDA text, in their order.</summary>
    /// <param name="arguments">The arguments.</param>
    /// <param name="writer">Where to.</param>
    public abstract void Write(scoped in TArguments arguments, VariantWriter writer);

    /// <summary>Writes a plan's arguments, which may have to fit the batch.</summary>
    internal virtual void Write(scoped in TArguments arguments, in BatchShape batch, VariantWriter writer) => Write(in arguments, writer);
}

/// <summary>The arguments of a variant of attention, as plans take them.</summary>
/// <typeparam name="TArguments">As of the variant.</typeparam>
/// <param name="values">The arguments.</param>
public readonly ref struct VariantArguments<TArguments>(TArguments values)
    where TArguments : allows ref struct
{
    internal readonly TArguments Values = values;
}
