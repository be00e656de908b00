using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer.Gpu.Tests.Cuda;

/// <summary>Arguments of the kernel <c>fill</c>; 16 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct FillParams
{
    public nint Destination;
    public uint Value;
    public uint Count;
}

/// <summary>Arguments of the kernel <c>spin</c>; 8 bytes.</summary>
[StructLayout(LayoutKind.Sequential)]
internal struct SpinParams
{
    public long Nanoseconds;
}

/// <summary>Small kernels in PTX, so that the driver alone can be tested, with no compiler of ours in between.</summary>
internal sealed class TestKernels : IDisposable
{
    private const int JitCompilerNotFound = 221;

    /// <summary>
    /// fill writes a value to every element of an array; spin keeps its stream busy; shared writes how many bytes of dynamic shared memory
    /// it got; answer is a constant.
    /// </summary>
    private const string Ptx = """
        .version 7.0
        .target sm_80
        .address_size 64

        .visible .const .align 4 .b32 answer[1] = { 42 };

        .visible .entry fill(.param .align 8 .b8 params[16])
        {
            .reg .pred %p<2>;
            .reg .b32 %r<8>;
            .reg .b64 %rd<6>;
            ld.param.u64 %rd1, [params];
            ld.param.u32 %r1, [params+8];
            ld.param.u32 %r2, [params+12];
            cvta.to.global.u64 %rd2, %rd1;
            mov.u32 %r3, %ctaid.x;
            mov.u32 %r4, %ntid.x;
            mov.u32 %r5, %tid.x;
            mad.lo.s32 %r6, %r3, %r4, %r5;
            setp.ge.u32 %p1, %r6, %r2;
            @%p1 bra DONE;
            mul.wide.u32 %rd3, %r6, 4;
            add.s64 %rd4, %rd2, %rd3;
            st.global.u32 [%rd4], %r1;
        DONE:
            ret;
        }

        .visible .entry spin(.param .align 8 .b8 params[8])
        {
            .reg .pred %p<2>;
            .reg .b64 %rd<6>;
            ld.param.u64 %rd1, [params];
            mov.u64 %rd2, %globaltimer;
        AGAIN:
            mov.u64 %rd3, %globaltimer;
            sub.s64 %rd4, %rd3, %rd2;
            setp.lt.u64 %p1, %rd4, %rd1;
            @%p1 bra AGAIN;
            ret;
        }

        .visible .entry shared(.param .align 8 .b8 params[16])
        {
            .reg .b32 %r<3>;
            .reg .b64 %rd<4>;
            ld.param.u64 %rd1, [params];
            cvta.to.global.u64 %rd2, %rd1;
            mov.u32 %r1, %dynamic_smem_size;
            st.global.u32 [%rd2], %r1;
            ret;
        }
        """;

    private TestKernels(CudaModule module)
    {
        Module = module;
        Fill = module.GetFunction("fill");
        Spin = module.GetFunction("spin");
        Shared = module.GetFunction("shared");
    }

    public CudaModule Module { get; }

    public CudaFunction Fill { get; }

    public CudaFunction Spin { get; }

    public CudaFunction Shared { get; }

    /// <summary>Loads the kernels, or skips the test where the driver came without its PTX compiler.</summary>
    public static TestKernels Load(CudaContext context)
    {
        try
        {
            return new TestKernels(CudaModule.LoadPtx(context, System.Text.Encoding.UTF8.GetBytes(Ptx)));
        }
        catch (CudaDriverException e) when (e.Code == JitCompilerNotFound)
        {
            Assert.Skip(e.Message);
            throw;
        }
    }

    /// <summary>Keeps a stream busy.</summary>
    public void Busy(CudaStream stream, int milliseconds) =>
        Spin.Launch(new SpinParams { Nanoseconds = milliseconds * 1_000_000L }, new(1), new(1), 0, stream);

    public void Dispose() => Module.Dispose();
}
