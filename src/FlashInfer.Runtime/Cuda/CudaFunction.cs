using FlashInfer.Observability;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>A kernel of a loaded module. It keeps its module's object, but not a disposed module loaded.</summary>
public sealed unsafe class CudaFunction
{
    private readonly nint _function;

    internal CudaFunction(CudaModule module, string name, nint function)
    {
        Module = module;
        Name = name;
        _function = function;
        // Asking for the attributes also loads a kernel that the driver would else load at its first launch, perhaps inside a capture.
        Registers = Attribute(CudaFunctionAttribute.Registers);
        LocalBytes = Attribute(CudaFunctionAttribute.LocalBytes);
        StaticSharedBytes = Attribute(CudaFunctionAttribute.SharedBytes);
        MaxThreadsPerBlock = Attribute(CudaFunctionAttribute.MaxThreadsPerBlock);
    }

    /// <summary>The module.</summary>
    public CudaModule Module { get; }

    /// <summary>The symbol.</summary>
    public string Name { get; }

    /// <summary>Registers of one thread.</summary>
    public int Registers { get; }

    /// <summary>Local memory (spills and stack) of one thread, in bytes.</summary>
    public int LocalBytes { get; }

    /// <summary>Static shared memory of one block, in bytes.</summary>
    public int StaticSharedBytes { get; }

    /// <summary>The most threads that one block may have with these registers.</summary>
    public int MaxThreadsPerBlock { get; }

    /// <summary>The CUfunction.</summary>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public nint Handle
    {
        get
        {
            // The function is part of the module: a disposed one throws here.
            _ = Module.Handle;
            return _function;
        }
    }

    /// <summary>Allows launches with up to this much dynamic shared memory; needed above 48 KiB.</summary>
    /// <param name="bytes">Dynamic shared memory of one block, in bytes.</param>
    /// <exception cref="ArgumentOutOfRangeException">Negative, or more than the device gives beside the static shared memory.</exception>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public void SetMaxDynamicSharedMemory(int bytes)
    {
        int most = Module.Context.SharedMemoryPerBlockOptIn - StaticSharedBytes;
        if (bytes < 0 || bytes > most)
        {
            throw new ArgumentOutOfRangeException(
                nameof(bytes),
                bytes,
                $"Kernel '{Name}' can have 0 to {most:N0} bytes of dynamic shared memory on {Module.Context.Description}."
            );
        }

        nint handle = Enter();
        Check(cuFuncSetAttribute(handle, CudaFunctionAttribute.MaxDynamicSharedBytes, bytes), nameof(cuFuncSetAttribute), Module.Context);
    }

    /// <summary>Blocks that fit on one multiprocessor at the same time.</summary>
    /// <param name="blockThreads">Threads of one block.</param>
    /// <param name="dynamicSharedBytes">Dynamic shared memory of one block, in bytes.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public int GetMaxActiveBlocksPerMultiprocessor(int blockThreads, int dynamicSharedBytes)
    {
        ArgumentOutOfRangeException.ThrowIfNegativeOrZero(blockThreads);
        ArgumentOutOfRangeException.ThrowIfNegative(dynamicSharedBytes);
        nint handle = Enter();
        int blocks;
        Check(
            cuOccupancyMaxActiveBlocksPerMultiprocessor(&blocks, handle, blockThreads, (nuint)dynamicSharedBytes),
            nameof(cuOccupancyMaxActiveBlocksPerMultiprocessor),
            Module.Context
        );
        return blocks;
    }

    /// <summary>Clusters that can run at the same time.</summary>
    /// <param name="clusterBlocks">Blocks of one cluster, 1 to 8.</param>
    /// <param name="blockThreads">Threads of one block.</param>
    /// <param name="dynamicSharedBytes">Dynamic shared memory of one block, in bytes.</param>
    /// <exception cref="CudaDriverException">The driver refuses.</exception>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public int GetMaxActiveClusters(int clusterBlocks, int blockThreads, int dynamicSharedBytes)
    {
        nint handle = Enter();
        CudaLaunchAttribute attribute = Cluster(clusterBlocks);
        CudaLaunchConfig config = Config(new(clusterBlocks), new(blockThreads), dynamicSharedBytes, 0);
        config.Attributes = &attribute;
        config.AttributeCount = 1;
        int clusters;
        Check(cuOccupancyMaxActiveClusters(&clusters, handle, &config), nameof(cuOccupancyMaxActiveClusters), Module.Context);
        return clusters;
    }

    /// <summary>
    /// Queues a launch of a kernel whose only parameter is one structure, passed by value. The driver copies it before this returns.
    /// Allocates nothing. Dimensions and size are the caller's promise.
    /// </summary>
    /// <param name="args">The structure, laid out as in the kernel.</param>
    /// <param name="grid">Blocks.</param>
    /// <param name="block">Threads of one block.</param>
    /// <param name="sharedBytes">Dynamic shared memory of one block, in bytes.</param>
    /// <param name="stream">The stream.</param>
    /// <param name="programmaticDependentLaunch">
    /// The kernel may start before its predecessor in the stream ends, and waits for it with <c>griddepcontrol.wait</c>.
    /// </param>
    /// <param name="clusterBlocks">Blocks of one cluster; 1 without clusters.</param>
    internal void Launch<TParams>(
        in TParams args,
        CudaExtent grid,
        CudaExtent block,
        int sharedBytes,
        CudaStream stream,
        bool programmaticDependentLaunch = false,
        int clusterBlocks = 1
    )
        where TParams : unmanaged
    {
        Module.Context.MakeCurrent();
        LaunchInCurrentContext(args, grid, block, sharedBytes, stream, programmaticDependentLaunch, clusterBlocks);
    }

    /// <summary>As <see cref="Launch"/>, when the caller has just made the context current.</summary>
    internal void LaunchInCurrentContext<TParams>(
        in TParams args,
        CudaExtent grid,
        CudaExtent block,
        int sharedBytes,
        CudaStream stream,
        bool programmaticDependentLaunch,
        int clusterBlocks
    )
        where TParams : unmanaged
    {
        nint handle = Handle;
        CudaLaunchAttribute* attributes = stackalloc CudaLaunchAttribute[2];
        CudaLaunchConfig config = Config(grid, block, sharedBytes, stream.Handle);
        config.Attributes = attributes;
        if (programmaticDependentLaunch)
        {
            attributes[config.AttributeCount++] = new() { Id = CudaFlag.LaunchProgrammaticStreamSerialization, Value = 1 };
        }

        if (clusterBlocks > 1)
        {
            attributes[config.AttributeCount++] = Cluster(clusterBlocks);
        }

        int result;
        fixed (TParams* parameter = &args)
        {
            void* parameters = parameter;
            result = cuLaunchKernelEx(&config, handle, &parameters, null);
        }

        if (result != CudaResult.Success)
        {
            ThrowLaunch(result, grid, block, sharedBytes);
        }

        Telemetry.Launched(Name);
        GC.KeepAlive(stream);
        GC.KeepAlive(this);
    }

    /// <summary>The symbol.</summary>
    public override string ToString() => Name;

    private static CudaLaunchAttribute Cluster(int blocks) =>
        new()
        {
            Id = CudaFlag.LaunchClusterDimension,
            Value = blocks,
            Y = 1,
            Z = 1,
        };

    private static CudaLaunchConfig Config(CudaExtent grid, CudaExtent block, int sharedBytes, nint stream) =>
        new()
        {
            GridX = (uint)grid.X,
            GridY = (uint)grid.Y,
            GridZ = (uint)grid.Z,
            BlockX = (uint)block.X,
            BlockY = (uint)block.Y,
            BlockZ = (uint)block.Z,
            DynamicSharedBytes = (uint)sharedBytes,
            Stream = stream,
        };

    private void ThrowLaunch(int result, CudaExtent grid, CudaExtent block, int sharedBytes) =>
        Throw(
            result,
            nameof(cuLaunchKernelEx),
            Module.Context,
            subject: $"Kernel '{Name}' ({Registers} registers) with grid {grid.X} x {grid.Y} x {grid.Z}, block {block.X} x {block.Y} x {block.Z}, {sharedBytes:N0} bytes of dynamic shared memory"
        );

    private nint Enter()
    {
        nint handle = Handle;
        Module.Context.MakeCurrent();
        return handle;
    }

    private int Attribute(int attribute)
    {
        int value;
        Check(cuFuncGetAttribute(&value, attribute, _function), nameof(cuFuncGetAttribute), Module.Context);
        return value;
    }
}
