namespace FlashInfer.Compilation;

/// <summary>What one entry point of a kernel uses, as ptxas reports it.</summary>
/// <param name="Entry">The entry point.</param>
/// <param name="Registers">Registers per thread.</param>
/// <param name="StackBytes">Local memory per thread.</param>
/// <param name="SpillStoreBytes">Bytes of registers written to local memory for want of registers.</param>
/// <param name="SpillLoadBytes">Bytes of registers read back.</param>
/// <param name="StaticSharedBytes">Shared memory per block that the code declares; what is asked for at launch comes on top.</param>
public sealed record KernelResources(
    string Entry,
    int Registers,
    int StackBytes,
    int SpillStoreBytes,
    int SpillLoadBytes,
    int StaticSharedBytes
);
