using System.Text;
using static FlashInfer.Cuda.CudaDriver;

namespace FlashInfer.Cuda;

/// <summary>Kernels and global variables loaded into a context.</summary>
public sealed unsafe class CudaModule : IDisposable
{
    private readonly CudaModuleHandle _handle;

    private CudaModule(CudaContext context, CudaModuleHandle handle)
    {
        Context = context;
        _handle = handle;
    }

    /// <summary>The context that the module is loaded into.</summary>
    public CudaContext Context { get; }

    /// <summary>The CUmodule.</summary>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public nint Handle => _handle.Value(this);

    /// <summary>Loads a cubin.</summary>
    /// <param name="context">The context; it is kept until the module is gone.</param>
    /// <param name="cubin">The whole file, compiled for the device's own architecture.</param>
    /// <exception cref="ArgumentException">The bytes are no cubin, or cut short.</exception>
    /// <exception cref="CudaDriverException">The driver refuses the cubin: another architecture, damaged, or no memory.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public static CudaModule Load(CudaContext context, ReadOnlySpan<byte> cubin)
    {
        if (CubinImage.Problem(cubin) is string problem)
        {
            throw new ArgumentException($"The image cannot be loaded: {problem}. Compile it again.", nameof(cubin));
        }

        ArgumentNullException.ThrowIfNull(context);
        return LoadImage(context, cubin, "A cubin", cubin.Length);
    }

    /// <summary>Loads PTX, which the driver compiles first: slower than a cubin, and only as new as the driver.</summary>
    /// <param name="context">The context; it is kept until the module is gone.</param>
    /// <param name="ptx">The text in UTF-8, with or without a closing zero.</param>
    /// <exception cref="CudaDriverException">The driver refuses the text, or has no compiler for it.</exception>
    /// <exception cref="ObjectDisposedException">The context was disposed.</exception>
    public static CudaModule LoadPtx(CudaContext context, ReadOnlySpan<byte> ptx)
    {
        ArgumentNullException.ThrowIfNull(context);
        byte[] terminated = new byte[ptx.Length + 1];
        ptx.CopyTo(terminated);
        return LoadImage(context, terminated, "PTX", ptx.Length);
    }

    /// <summary>Uses a module of another owner, who has to keep it loaded.</summary>
    /// <param name="context">The context that the module is loaded into.</param>
    /// <param name="module">The CUmodule.</param>
    /// <exception cref="ArgumentException"><paramref name="module"/> is 0.</exception>
    public static CudaModule FromHandle(CudaContext context, nint module)
    {
        ArgumentNullException.ThrowIfNull(context);
        return module == 0
            ? throw new ArgumentException("The CUmodule is 0.", nameof(module))
            : new CudaModule(context, new CudaModuleHandle(context, module, owns: false));
    }

    /// <summary>Finds a kernel.</summary>
    /// <param name="name">Its symbol: the plain name of an <c>extern "C"</c> function.</param>
    /// <exception cref="CudaDriverException">The module has no such kernel (CUDA_ERROR_NOT_FOUND), or it cannot be loaded.</exception>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public CudaFunction GetFunction(string name)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        nint module = Handle;
        Context.MakeCurrent();
        nint function;
        int result;
        fixed (byte* symbol = Symbol(name))
        {
            result = cuModuleGetFunction(&function, module, symbol);
        }

        if (result != CudaResult.Success)
        {
            Throw(result, nameof(cuModuleGetFunction), Context, subject: $"Kernel '{name}'");
        }

        return new CudaFunction(this, name, function);
    }

    /// <summary>Copies a global or constant variable to the host and waits for it.</summary>
    /// <param name="name">Its symbol.</param>
    /// <param name="destination">As many bytes as the variable has.</param>
    /// <exception cref="ArgumentException"><paramref name="destination"/> has another size than the variable.</exception>
    /// <exception cref="CudaDriverException">The module has no such variable (CUDA_ERROR_NOT_FOUND), or an earlier launch failed.</exception>
    /// <exception cref="ObjectDisposedException">The module was disposed.</exception>
    public void ReadGlobal(string name, Span<byte> destination)
    {
        ArgumentException.ThrowIfNullOrEmpty(name);
        nint module = Handle;
        Context.MakeCurrent();
        ulong address;
        nuint bytes;
        int result;
        fixed (byte* symbol = Symbol(name))
        {
            result = cuModuleGetGlobal(&address, &bytes, module, symbol);
        }

        if (result != CudaResult.Success)
        {
            Throw(result, nameof(cuModuleGetGlobal), Context, subject: $"Variable '{name}'");
        }

        if (bytes != (nuint)destination.Length)
        {
            throw new ArgumentException(
                $"The variable '{name}' has {bytes} bytes, the destination {destination.Length}.",
                nameof(destination)
            );
        }

        // A stream of its own: the default stream would wait for, or break, what other libraries have going on it.
        using RelaxedCapture relaxed = RelaxedCapture.Enter();
        using CudaStream stream = new(Context);
        fixed (byte* host = destination)
        {
            Check(cuMemcpyDtoHAsync(host, address, bytes, stream.Handle), nameof(cuMemcpyDtoHAsync), Context);
            stream.Synchronize();
        }

        GC.KeepAlive(this);
    }

    /// <summary>Unloads the module if this library loaded it. Its kernels, and graphs that hold them, must not be launched any more.</summary>
    public void Dispose() => _handle.Dispose();

    private static CudaModule LoadImage(CudaContext context, ReadOnlySpan<byte> image, string kind, int length)
    {
        context.MakeCurrent();
        nint module;
        int result;
        using (RelaxedCapture.Enter())
        {
            fixed (byte* bytes = image)
            {
                result = cuModuleLoadData(&module, bytes);
            }
        }

        if (result != CudaResult.Success)
        {
            Throw(result, nameof(cuModuleLoadData), context, subject: $"{kind} of {length:N0} bytes");
        }

        return new CudaModule(context, new CudaModuleHandle(context, module, owns: true));
    }

    private static byte[] Symbol(string name) => Encoding.UTF8.GetBytes(name + '\0');
}
