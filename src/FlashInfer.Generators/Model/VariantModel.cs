using System.Linq;

namespace FlashInfer.Generators.Model;

/// <summary>A variant of attention, that a class describes in C# or names by options: what the emitted C# and the CUDA units need to know of it.</summary>
/// <param name="ArgumentsType">Fully qualified name of the struct of arguments; null when the variant takes none.</param>
/// <param name="Arguments">Its properties, in the order in which they lie in memory.</param>
/// <param name="Hooks">The methods, at most one of a kind.</param>
/// <param name="Cuda">Text of <c>struct Variant : flashinfer::NoVariant</c>, which goes into every unit of attention.</param>
/// <param name="Options">The options, where the variant is the library's own.</param>
/// <param name="RotaryDim">Elements of a head that turn, where an option turns them; 0 for all of them.</param>
internal sealed record VariantModel(
    string? ArgumentsType,
    EquatableArray<VariantArgument> Arguments,
    EquatableArray<VariantHook> Hooks,
    string Cuda,
    AttentionOptions Options = AttentionOptions.None,
    int RotaryDim = 0
)
{
    // The options that take a value, and its name.
    private static readonly (AttentionOptions Option, string Argument)[] s_arguments =
    {
        (AttentionOptions.LogitsSoftCap, "LogitsSoftCap"),
        (AttentionOptions.SlidingWindow, "WindowLeft"),
        (AttentionOptions.Alibi, "AlibiSlopes"),
        (AttentionOptions.Sinks, "Sinks"),
        (AttentionOptions.CustomMask, "CustomMask"),
        (AttentionOptions.PackedCustomMask, "PackedCustomMask"),
        (OptionUnits.Ropes, "RopeFrequencies"),
        (AttentionOptions.MultiItemScoring, "PrefixLengths"),
        (AttentionOptions.MultiItemScoring, "ItemPositions"),
    };

    /// <summary>The variant that a shape's options make; null when there are none.</summary>
    public static VariantModel? Of(AttentionShape shape) =>
        shape.Options == AttentionOptions.None
            ? null
            : new VariantModel(
                "global::FlashInfer.OptionArguments",
                new EquatableArray<VariantArgument>(
                    s_arguments
                        .Where(argument => (shape.Options & argument.Option) != 0)
                        .Select(static argument => new VariantArgument(argument.Argument, "float", IsSpan: false))
                        .ToArray()
                ),
                default,
                OptionUnits.Cuda(shape.Options, shape.RotaryDim),
                shape.Options,
                shape.RotaryDim
            );
}

/// <summary>A property of a variant's arguments.</summary>
/// <param name="Name">Name of the property.</param>
/// <param name="Element">C# keyword of its type, or of the span's elements: int, uint, float, bool, byte.</param>
/// <param name="IsSpan">Whether it is a span.</param>
/// <param name="IsComputed">Whether it cannot be set but follows from the others; such ones come last.</param>
internal sealed record VariantArgument(string Name, string Element, bool IsSpan, bool IsComputed = false);

/// <summary>A method of a variant.</summary>
/// <param name="Kind">What it is asked for.</param>
/// <param name="Method">Its name.</param>
/// <param name="TakesArguments">Whether its last parameter is the arguments.</param>
internal sealed record VariantHook(VariantHookKind Kind, string Method, bool TakesArguments);

/// <summary>What a method of a variant is asked for.</summary>
internal enum VariantHookKind
{
    Transform,
    Mask,
    FirstKey,
    Sink,
    QueryTransform,
    OutputTransform,
}

/// <summary>What follows from what a method is asked for.</summary>
internal static class VariantHookKinds
{
    /// <summary>Whether it replaces its first parameter.</summary>
    public static bool Replaces(this VariantHookKind kind) =>
        kind is VariantHookKind.Transform or VariantHookKind.QueryTransform or VariantHookKind.OutputTransform;

    /// <summary>How many floats come first: what it replaces, if it does, and for an output the row's log-sum-exp.</summary>
    public static int Floats(this VariantHookKind kind) =>
        kind == VariantHookKind.OutputTransform ? 2
        : kind.Replaces() ? 1
        : 0;

    /// <summary>How many parameters it has beside the arguments: the floats, and where it is asked.</summary>
    public static int OwnParameters(this VariantHookKind kind) => kind.Floats() + 1;
}
