using System.Collections.Immutable;
using System.Linq;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Diagnostics;

/// <summary>Every diagnostic of this package. The limits of a configuration are in <see cref="AttentionRules"/> alone.</summary>
internal static class Descriptors
{
    private const string Category = "FlashInfer";
    private const string HelpLink = "https://github.com/flashinfer-net/flashinfer-net/blob/main/docs/diagnostics/";

    /// <summary>{0}: the type that is not partial; {1}: the class with the attribute.</summary>
    public static readonly DiagnosticDescriptor NotPartial = Create(
        "FI0001",
        "An attention configuration is not partial",
        "{0} is not partial, so nothing can be generated into {1}; add 'partial' to the declaration of {0}"
    );

    /// <summary>{0}: the class; {1}: the clause of <see cref="Parsing.ConfigTarget.Problems"/>.</summary>
    public static readonly DiagnosticDescriptor NotAConfig = Create("FI0002", "The class cannot be an attention configuration", "{0} {1}");

    /// <summary>{0}: a sentence of <see cref="TargetArchitecture.Read"/>.</summary>
    public static readonly DiagnosticDescriptor Architecture = Create(
        "FI0011",
        "FlashInferArchitectures names no architecture for these kernels",
        "FlashInferArchitectures: {0}",
        tags: WellKnownDiagnosticTags.CompilationEnd
    );

    /// <summary>{0}: the head dimension.</summary>
    public static readonly DiagnosticDescriptor DecodeOnly = Create(
        "FI0018",
        "headDim is for decode only",
        "headDim is {0}: prefill has kernels up to "
            + AttentionRules.MaxPrefillHeadDim
            + ", so this configuration has a cache and decode, and neither prefill nor cascades nor attention without a cache; decode takes up to 8 query tokens a sequence",
        DiagnosticSeverity.Info
    );

    /// <summary>{0}: the wrapper; {1}: the loop's variable.</summary>
    public static readonly DiagnosticDescriptor PlanInLayerLoop = Create(
        "FI0101",
        "A plan is made again for each layer",
        "{0}.Plan is called for each value of {1}, but one plan serves all layers of a step; call it once, before the loop",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the wrapper; {1}: Run or Append; {2}: why there is no plan and what to do.</summary>
    public static readonly DiagnosticDescriptor RunWithoutPlan = Create(
        "FI0102",
        "A call has no valid plan",
        "{0}.{1} has no valid plan here: {2}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the sequence or batch; {1}: where it stays open and what to do.</summary>
    public static readonly DiagnosticDescriptor ForwardLeftOpen = Create(
        "FI0103",
        "A forward is left open",
        "The forward of {0} that begins here {1}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: what is not disposed; {1}: what to do.</summary>
    public static readonly DiagnosticDescriptor NotDisposed = Create(
        "FI0104",
        "Device memory is never given back",
        "{0} is never disposed, so its device memory is not given back; {1}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the tensor.</summary>
    public static readonly DiagnosticDescriptor AllocationPerStep = Create(
        "FI0105",
        "A tensor is allocated in every step",
        "{0} is allocated in every pass of a loop that runs attention; an allocation waits for the device, so allocate it once before the loop, for the largest step",
        DiagnosticSeverity.Info
    );

    /// <summary>{0}: a sentence of <see cref="Usage.StreamOrder"/>.</summary>
    public static readonly DiagnosticDescriptor StreamNotWaitedFor = Create(
        "FI0106",
        "A stream does not wait for another",
        "{0}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the call; {1}: the stream that is being captured; {2}: what happens and what to do.</summary>
    public static readonly DiagnosticDescriptor NotCapturable = Create(
        "FI0107",
        "A call cannot be part of a CUDA graph",
        "{0} is called while {1} is being captured: {2}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the value; {1}: the base that it has; {2}: the base that is wanted and what to do.</summary>
    public static readonly DiagnosticDescriptor LseBases = Create(
        "FI0108",
        "A log-sum-exp is taken for one of another base",
        "{0} is a log-sum-exp of base {1}, but {2}",
        DiagnosticSeverity.Warning
    );

    /// <summary>{0}: the method; {1}: the attribute; {2}: what is wrong and what was expected.</summary>
    public static readonly DiagnosticDescriptor VariantSignature = Create(
        "FI0201",
        "A method cannot be a hook of a variant",
        "{0} is marked [{1}], but {2}"
    );

    /// <summary>{0}: the method; {1}: the attribute; {2}: the other method.</summary>
    public static readonly DiagnosticDescriptor VariantTwice = Create(
        "FI0202",
        "A variant has two hooks of a kind",
        "{0} is marked [{1}] and so is {2}; a variant has one, so call one from the other"
    );

    /// <summary>{0}: the struct or its member; {1}: what is wrong and what to do.</summary>
    public static readonly DiagnosticDescriptor VariantArguments = Create(
        "FI0203",
        "The arguments of a variant cannot be given to kernels",
        "{0} {1}"
    );

    /// <summary>{0}: the method or struct; {1}: the attribute; {2}: the class around it.</summary>
    public static readonly DiagnosticDescriptor VariantWithoutConfig = Create(
        "FI0204",
        "A variant is in no attention configuration",
        "{0} is marked [{1}], but {2} has no [AttentionConfig], so nothing asks it; move it into the configuration that it is for"
    );

    /// <summary>{0}: the construct; {1}: what to write instead.</summary>
    public static readonly DiagnosticDescriptor VariantConstruct = Create(
        "FI0205",
        "A construct cannot become part of a kernel",
        "{0} cannot become part of a kernel; {1}"
    );

    /// <summary>{0}: the type; {1}: what to write instead.</summary>
    public static readonly DiagnosticDescriptor VariantType = Create(
        "FI0206",
        "A type cannot become part of a kernel",
        "{0} is no type of kernels; {1}"
    );

    /// <summary>{0}: the method; {1}: why not and what to do.</summary>
    public static readonly DiagnosticDescriptor VariantCall = Create(
        "FI0207",
        "A method cannot be called in a kernel",
        "{0} cannot be called in a kernel: it {1}"
    );

    /// <summary>{0}: the loop's keyword.</summary>
    public static readonly DiagnosticDescriptor VariantLoop = Create(
        "FI0208",
        "A loop has no bound that can be seen",
        "This '{0}' has no bound that can be seen, and a loop that does not end hangs the GPU; write for (int i = start; i < end; i++), where the body changes neither i nor end, with further conditions behind &&"
    );

    /// <summary>{0}: the field or property; {1}: why not and what to do.</summary>
    public static readonly DiagnosticDescriptor VariantState = Create("FI0209", "A variant reads state that no plan gives it", "{0} {1}");

    /// <summary>{0}: what is read.</summary>
    public static readonly DiagnosticDescriptor VariantFirstKey = Create(
        "FI0210",
        "FirstKey reads a key or a head",
        "{0} 0 in a [FirstKey], which is asked once for all heads and before there is a key; compute the bound from QoPosition, Sequence, QoLen and KvLen"
    );

    /// <summary>One descriptor for each rule of <see cref="AttentionRules.All"/>, in the same order.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> Rules = AttentionRules
        .All.Select(static rule => Create(rule.Id, rule.Title, "{0}"))
        .ToImmutableArray();

    /// <summary>One descriptor for each rule of <see cref="FlashInfer.ArchitectureRules.All"/>, in the same order.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> ArchitectureRules = FlashInfer
        .ArchitectureRules.All.Select(static rule =>
            Create(rule.Id, rule.Title, "{0}", rule.IsWarning ? DiagnosticSeverity.Warning : DiagnosticSeverity.Info)
        )
        .ToImmutableArray();

    /// <summary>What is said of a configuration.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> Config = ImmutableArray
        .Create(NotPartial, NotAConfig, Architecture, DecodeOnly)
        .AddRange(Rules)
        .AddRange(ArchitectureRules);

    /// <summary>What is said of code that uses one.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> Usage = ImmutableArray.Create(
        PlanInLayerLoop,
        RunWithoutPlan,
        ForwardLeftOpen,
        NotDisposed,
        AllocationPerStep,
        StreamNotWaitedFor,
        NotCapturable,
        LseBases
    );

    /// <summary>What is said of variants of attention.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> Variant = ImmutableArray.Create(
        VariantSignature,
        VariantTwice,
        VariantArguments,
        VariantWithoutConfig,
        VariantConstruct,
        VariantType,
        VariantCall,
        VariantLoop,
        VariantState,
        VariantFirstKey
    );

    /// <summary>All of them, each in one of the three.</summary>
    public static readonly ImmutableArray<DiagnosticDescriptor> All = Config.AddRange(Variant).AddRange(Usage);

    private static DiagnosticDescriptor Create(
        string id,
        string title,
        string message,
        DiagnosticSeverity severity = DiagnosticSeverity.Error,
        params string[] tags
    ) => new(id, title, message, Category, severity, isEnabledByDefault: true, helpLinkUri: HelpLink + id + ".md", customTags: tags);
}
