namespace FlashInfer.Cuda;

/// <summary>The names by which LibraryImport asks for the CUDA libraries; one resolver turns them into handles.</summary>
internal static partial class NativeLibraries
{
    public const string Driver = "cuda-driver";
    public const string Nvrtc = "nvrtc";
}
