namespace FlashInfer;

/// <summary>bfloat16.</summary>
public readonly struct BFloat16;
