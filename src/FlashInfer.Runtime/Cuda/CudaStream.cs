namespace FlashInfer.Cuda;

/// <summary>A CUDA stream.</summary>
public sealed class CudaStream;
