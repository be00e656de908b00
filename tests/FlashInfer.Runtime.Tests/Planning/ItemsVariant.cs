namespace FlashInfer.Tests.Planning;

/// <summary>Behind a prefix, items of so many tokens each, which see the prefix and themselves.</summary>
internal sealed class ItemsVariant(int prefix, int tokens) : AttentionVariant(VariantHooks.Mask, "")
{
    internal override bool SkipsKeys => true;

    internal override (int First, int End) Skipped(LogitsContext at, VariantReader arguments) =>
        at.QoPosition < prefix ? default : (prefix, prefix + ((at.QoPosition - prefix) / tokens * tokens));
}
