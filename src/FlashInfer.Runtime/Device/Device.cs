using System.Collections.Concurrent;
using FlashInfer.Cuda;
using FlashInfer.Observability;
using Microsoft.Extensions.Logging;
using Microsoft.Extensions.Logging.Abstractions;

namespace FlashInfer;

/// <summary>What a <see cref="Device"/> runs on.</summary>
public enum DeviceKind
{
    /// <summary>The built-in CPU backend.</summary>
    Cpu,

    /// <summary>An NVIDIA GPU.</summary>
    Cuda,
}

/// <summary>
/// Where tensors live and kernels run: an NVIDIA GPU, or the CPU where there is none. Safe to share between threads. Dispose caches,
/// wrappers and tensors before their device; what is left then is freed with it, and says so when used.
/// </summary>
public sealed partial class Device : IDisposable
{
    private readonly ConcurrentDictionary<(AttentionShape, AttentionVariant?), Lazy<AttentionKernels>> _kernels = new();
    private readonly Backend _backend;
    private int _disposed;

    internal Device(Backend backend, DeviceKind kind, string name, string reason, ILoggerFactory? loggers = null)
    {
        _backend = backend;
        Kind = kind;
        Name = name;
        Reason = reason;
        Log = loggers?.CreateLogger<Device>() ?? (ILogger)NullLogger.Instance;
        Log.DeviceOpened(ToString(), reason);
        Telemetry.Track(this);
    }

    /// <summary>GPU or CPU.</summary>
    public DeviceKind Kind { get; }

    /// <summary>The device's name, such as <c>NVIDIA H100 80GB HBM3</c>.</summary>
    public string Name { get; }

    /// <summary>Why this device was chosen: for a CPU device, what keeps the GPU from being used.</summary>
    public string Reason { get; }

    /// <summary>Whether the device was opened in checked mode; see <see cref="DeviceOptions.IsChecked"/>.</summary>
    public bool IsChecked => _backend.IsChecked;

    internal Backend Backend
    {
        get
        {
            ThrowIfDisposed();
            return _backend;
        }
    }

    /// <summary>As <see cref="Backend.Memory"/>.</summary>
    internal (long Used, long Kept)? Memory => _backend.Memory;

    /// <summary>The device's log.</summary>
    internal ILogger Log { get; }

    internal bool IsDisposed => Volatile.Read(ref _disposed) != 0;

    /// <summary>Allocates a tensor, contents undefined.</summary>
    /// <typeparam name="T"><see cref="Half"/>, <see cref="BFloat16"/>, <see cref="float"/>, <see cref="int"/>, <see cref="Float8E4M3"/> or <see cref="Float8E5M2"/>.</typeparam>
    /// <param name="shape">Its dimensions, outermost first.</param>
    public DeviceTensor<T> Allocate<T>(params ReadOnlySpan<int> shape)
        where T : unmanaged => new(this, new TensorShape(shape));

    /// <summary>Allocates a tensor whose element type is known only at run time, contents undefined.</summary>
    /// <param name="dtype">The element type.</param>
    /// <param name="shape">Its dimensions, outermost first.</param>
    public DeviceTensor Allocate(DType dtype, params ReadOnlySpan<int> shape) => new(this, dtype, new TensorShape(shape));

    /// <summary>Looks at memory that somebody else owns: ManagedCuda, ILGPU, TorchSharp, a native library.</summary>
    /// <typeparam name="T"><see cref="Half"/>, <see cref="BFloat16"/>, <see cref="float"/>, <see cref="int"/>, <see cref="Float8E4M3"/> or <see cref="Float8E5M2"/>.</typeparam>
    /// <param name="address">A device pointer of this GPU, or a native pointer on the CPU device; 16-byte aligned.</param>
    /// <param name="shape">The dimensions, outermost first.</param>
    /// <param name="strides">Elements between neighbours for each dimension; contiguous when empty.</param>
    /// <returns>A view; the memory must stay alive while it is used.</returns>
    public TensorView<T> View<T>(nint address, ReadOnlySpan<int> shape, ReadOnlySpan<long> strides = default)
        where T : unmanaged => View(address, DTypes.Of<T>(), shape, strides).As<T>();

    /// <summary>Looks at memory that somebody else owns, of an element type that is known only at run time.</summary>
    /// <param name="address">A device pointer of this GPU, or a native pointer on the CPU device; 16-byte aligned.</param>
    /// <param name="dtype">The element type.</param>
    /// <param name="shape">The dimensions, outermost first.</param>
    /// <param name="strides">Elements between neighbours for each dimension; contiguous when empty.</param>
    /// <returns>A view; the memory must stay alive while it is used.</returns>
    public TensorView View(nint address, DType dtype, ReadOnlySpan<int> shape, ReadOnlySpan<long> strides = default)
    {
        ThrowIfDisposed();
        TensorShape dimensions = new(shape);
        TensorStrides steps = TensorStrides.Contiguous(dimensions);
        if (!strides.IsEmpty)
        {
            if (strides.Length != shape.Length)
            {
                throw new ArgumentException(
                    $"{strides.Length} strides were given for the {shape.Length} dimensions of {dimensions}; expected one for each, or none for contiguous ones.",
                    nameof(strides)
                );
            }

            for (int i = 0; i < strides.Length; i++)
            {
                ArgumentOutOfRangeException.ThrowIfNegative(strides[i], nameof(strides));
                steps[i] = strides[i];
            }
        }

        CheckForeign(address, dtype, dimensions);
        return new TensorView(this, null, address, dtype, dimensions, steps);
    }

    /// <summary>
    /// Takes a tensor over from another library by DLPack, without a copy. Dispose it to give it back: that waits for the work queued on
    /// this device, and calls the tensor's deleter.
    /// </summary>
    /// <param name="managedTensor">A <c>DLManagedTensorVersioned*</c> on this device, ready on the stream that will use it: give <see cref="Stream"/>'s handle to the library that makes it.</param>
    /// <param name="isVersioned">Whether it is that structure, of DLPack 1, or a <c>DLManagedTensor*</c>, from before DLPack 1.0.</param>
    /// <param name="allowReadOnly">Whether a tensor may be one that must not be written; that nothing writes it is then the caller's promise.</param>
    /// <exception cref="ArgumentException">The tensor is on another device, of another version, or of elements or a shape that tensors here cannot have; it is still the caller's.</exception>
    public DeviceTensor FromDLPack(nint managedTensor, bool isVersioned = true, bool allowReadOnly = false)
    {
        ThrowIfDisposed();
        return DLPack.Import(this, managedTensor, isVersioned, allowReadOnly);
    }

    /// <summary>Waits for everything queued on this device.</summary>
    public void Synchronize() => Backend.Synchronize();

    /// <summary>
    /// Gives the GPU memory that disposed tensors, caches and wrappers have left back to the system, once the device's stream has passed
    /// their last work. Until then it is kept, without a limit, for what is allocated next: the system's memory takes long to get.
    /// </summary>
    /// <remarks>
    /// For when another process or library is to have the memory of a model that is gone; not in a step, since it waits. The memory is in
    /// the GPU's default pool (<c>cuDeviceGetDefaultMemPool</c>), so what other devices and libraries of this process keep there goes
    /// back too. The CPU device keeps nothing.
    /// </remarks>
    /// <exception cref="InvalidOperationException">The device's stream is being captured into a graph.</exception>
    /// <exception cref="ObjectDisposedException">The device was disposed.</exception>
    public void TrimMemory() => Backend.TrimMemory();

    /// <summary>
    /// Compiles a configuration's kernels, or loads them from the kernel cache, so that nobody waits for them later. Without it the first
    /// cache of a configuration begins with append, and the first wrapper of a kind waits for that and for its own kernels.
    /// </summary>
    /// <param name="spec">The configuration.</param>
    /// <param name="kernels">Which kernels, all at the same time.</param>
    /// <param name="cancellationToken">Stops waiting; a compile under way is finished for the next caller.</param>
    public Task WarmupAsync(AttentionSpec spec, KernelKinds kernels = KernelKinds.Decode, CancellationToken cancellationToken = default)
    {
        ArgumentNullException.ThrowIfNull(spec);
        ThrowIfDisposed();
        return Task.Run(() => Kernels(spec).Load(kernels), CancellationToken.None).WaitAsync(cancellationToken);
    }

    /// <summary>Frees the device's kernels, and what else was left on it.</summary>
    public void Dispose()
    {
        if (Interlocked.Exchange(ref _disposed, 1) != 0)
        {
            return;
        }

        Telemetry.Forget(this);
        foreach (Lazy<AttentionKernels> kernels in _kernels.Values)
        {
            if (kernels.IsValueCreated)
            {
                kernels.Value.Dispose();
            }
        }

        _backend.Dispose();
        _ownedContext?.Dispose();
    }

    /// <summary>The name, and of a GPU its number.</summary>
    public override string ToString() => Cuda is { } context ? $"{Name} (GPU {context.Ordinal})" : Name;

    internal void ThrowIfDisposed() => ObjectDisposedException.ThrowIf(IsDisposed, this);

    internal AttentionKernels Kernels(AttentionSpec spec)
    {
        ThrowIfDisposed();
        // Variants of one text may still differ on the CPU device.
        (AttentionShape, AttentionVariant?) key = (spec.Shape, spec.Variant);
        Lazy<AttentionKernels> entry = _kernels.GetOrAdd(key, _ => new Lazy<AttentionKernels>(() => Backend.LoadKernels(spec)));
        try
        {
            return entry.Value;
        }
        catch
        {
            // A failed compile is tried again by the next caller: the cause (no NVRTC, say) may be gone by then.
            _kernels.TryRemove(KeyValuePair.Create(key, entry));
            throw;
        }
    }

    /// <summary>Throws unless elements can lie at an address of another library.</summary>
    internal static void CheckForeign(nint address, DType dtype, TensorShape shape)
    {
        if (address == 0 && shape.Elements > 0)
        {
            throw new ArgumentException($"The address is null but {shape} has elements; pass where they lie.", nameof(address));
        }

        if (address % dtype.Size() != 0)
        {
            throw new ArgumentException(
                $"The address is 0x{address:x}; elements of {dtype} lie at multiples of {dtype.Size()} bytes, and tensors that kernels take at multiples of 16.",
                nameof(address)
            );
        }
    }

    internal void CheckStream(CudaStream? stream)
    {
        if (stream is not null && Kind == DeviceKind.Cpu)
        {
            throw new ArgumentException("The CPU device has no streams; pass none.", nameof(stream));
        }
    }
}
