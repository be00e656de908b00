namespace FlashInfer.Tests.Planning;

/// <summary>Each query token sees so many tokens before its own.</summary>
internal sealed class WindowVariant(int tokens) : AttentionVariant(VariantHooks.FirstKey, "")
{
    public override int FirstKey(LogitsContext at, VariantReader arguments) => at.QoPosition - tokens;
}
