using System.Diagnostics.CodeAnalysis;
using System.Runtime.InteropServices;
using System.Runtime.InteropServices.Marshalling;
using System.Text;

namespace FlashInfer.Cuda;

/// <summary>What NVRTC made of a program.</summary>
/// <param name="Error">Name of the failed call and of its result; null on success.</param>
/// <param name="Image">The cubin, or the PTX; empty on failure.</param>
/// <param name="Log">The program log: errors, warnings and the report of ptxas.</param>
internal readonly record struct NvrtcOutput(string? Error, byte[] Image, string Log);

/// <summary>
/// The NVRTC of this process. There is one: its calls are bound once, and a second version beside the first would share its builtins.
/// All members are safe from any thread; NVRTC compiles programs of several threads at once.
/// </summary>
internal sealed unsafe class NvrtcLibrary
{
    private static readonly Lock Gate = new();
    private static NvrtcLibrary? loaded;

    private NvrtcLibrary(NvrtcCandidate candidate, Version version)
    {
        Candidate = candidate;
        Version = version;
        Identity = candidate.Identity ?? $"{candidate.Path}|{version}";
    }

    /// <summary>The library of this process; null while none has been needed.</summary>
    public static NvrtcLibrary? Loaded => Volatile.Read(ref loaded);

    /// <summary>Where it was found.</summary>
    public NvrtcCandidate Candidate { get; }

    /// <summary>The version that it reports.</summary>
    public Version Version { get; }

    /// <summary>What stands for it in cache keys.</summary>
    public string Identity { get; }

    /// <summary>Loads a candidate, unless this process has a library already: then that one is the answer.</summary>
    public static bool TryLoad(NvrtcCandidate candidate, [NotNullWhen(true)] out NvrtcLibrary? library, out string reason)
    {
        lock (Gate)
        {
            library = loaded;
            if (library is not null)
            {
                reason = "";
                return true;
            }

            // Builtins first: NVRTC asks the loader for them by bare name, which succeeds when they are in the process already.
            // Whole paths: the loader takes a name without a folder as a wish to search.
            if (candidate.Builtins is not null && !NativeLibraries.TryLoad(Path.GetFullPath(candidate.Builtins), out _, out reason))
            {
                reason = $"{candidate.Builtins}: {reason}";
                return false;
            }

            string path = candidate.Builtins is null ? candidate.Path : Path.GetFullPath(candidate.Path);
            if (!NativeLibraries.TryLoad(path, out nint handle, out reason))
            {
                return false;
            }

            // The last call that came to NVRTC, of those in use: a library that has it has the others.
            if (!NativeLibrary.TryGetExport(handle, nameof(Nvrtc.nvrtcGetSupportedArchs), out _))
            {
                NativeLibrary.Free(handle);
                reason = "it is not NVRTC 11.2 or newer";
                return false;
            }

            NativeLibraries.SetNvrtc(handle);
            int major = 0;
            int minor = 0;
            _ = Nvrtc.nvrtcVersion(&major, &minor);
            library = new NvrtcLibrary(candidate, new Version(major, minor));
            Volatile.Write(ref loaded, library);
            return true;
        }
    }

    /// <summary>The compute capabilities that it compiles for, such as 80 and 90.</summary>
    public static int[] SupportedArchitectures()
    {
        int count = 0;
        if (Nvrtc.nvrtcGetNumSupportedArchs(&count) != 0 || count <= 0)
        {
            return [];
        }

        int[] architectures = new int[count];
        fixed (int* first = architectures)
        {
            return Nvrtc.nvrtcGetSupportedArchs(first) == 0 ? architectures : [];
        }
    }

    /// <summary>Compiles one program. A refused program is an answer, not an exception.</summary>
    /// <param name="name">The name of the source in the log.</param>
    /// <param name="source">The text, UTF-8.</param>
    /// <param name="headers">Addresses of the headers' texts, each ended by a zero byte.</param>
    /// <param name="includeNames">Addresses of the names by which they are included.</param>
    /// <param name="options">The options; for PTX the architecture is a virtual one.</param>
    /// <param name="toPtx">Whether PTX is wanted instead of a cubin.</param>
    public static NvrtcOutput Compile(
        string name,
        ReadOnlySpan<byte> source,
        ReadOnlySpan<nint> headers,
        ReadOnlySpan<nint> includeNames,
        IReadOnlyList<string> options,
        bool toPtx = false
    )
    {
        byte[] text = new byte[source.Length + 1];
        source.CopyTo(text);
        byte* nativeName = Utf8StringMarshaller.ConvertToUnmanaged(name);
        nint[] nativeOptions = new nint[options.Count];
        nint program = 0;
        try
        {
            for (int i = 0; i < nativeOptions.Length; i++)
            {
                nativeOptions[i] = (nint)Utf8StringMarshaller.ConvertToUnmanaged(options[i]);
            }

            fixed (byte* nativeText = text)
            fixed (nint* nativeHeaders = headers)
            fixed (nint* nativeNames = includeNames)
            fixed (nint* arguments = nativeOptions)
            {
                int code = Nvrtc.nvrtcCreateProgram(
                    &program,
                    nativeText,
                    nativeName,
                    headers.Length,
                    (byte**)nativeHeaders,
                    (byte**)nativeNames
                );
                if (code != 0)
                {
                    return new NvrtcOutput(Failure(nameof(Nvrtc.nvrtcCreateProgram), code), [], "");
                }

                code = Nvrtc.nvrtcCompileProgram(program, nativeOptions.Length, (byte**)arguments);
                string log = ReadLog(program);
                return code == 0
                    ? ReadImage(program, toPtx, log)
                    : new NvrtcOutput(Failure(nameof(Nvrtc.nvrtcCompileProgram), code), [], log);
            }
        }
        finally
        {
            if (program != 0)
            {
                _ = Nvrtc.nvrtcDestroyProgram(&program);
            }

            foreach (nint option in nativeOptions)
            {
                Utf8StringMarshaller.Free((byte*)option);
            }

            Utf8StringMarshaller.Free(nativeName);
        }
    }

    private static NvrtcOutput ReadImage(nint program, bool toPtx, string log)
    {
        nuint size = 0;
        int code = toPtx ? Nvrtc.nvrtcGetPTXSize(program, &size) : Nvrtc.nvrtcGetCUBINSize(program, &size);
        if (code != 0)
        {
            return new NvrtcOutput(Failure(toPtx ? nameof(Nvrtc.nvrtcGetPTXSize) : nameof(Nvrtc.nvrtcGetCUBINSize), code), [], log);
        }

        byte[] image = new byte[size];
        fixed (byte* first = image)
        {
            code = toPtx ? Nvrtc.nvrtcGetPTX(program, first) : Nvrtc.nvrtcGetCUBIN(program, first);
        }

        return code == 0
            ? new NvrtcOutput(null, image, log)
            : new NvrtcOutput(Failure(toPtx ? nameof(Nvrtc.nvrtcGetPTX) : nameof(Nvrtc.nvrtcGetCUBIN), code), [], log);
    }

    private static string ReadLog(nint program)
    {
        nuint size = 0;
        if (Nvrtc.nvrtcGetProgramLogSize(program, &size) != 0 || size <= 1)
        {
            return "";
        }

        byte[] log = new byte[size];
        fixed (byte* first = log)
        {
            return Nvrtc.nvrtcGetProgramLog(program, first) == 0 ? Encoding.UTF8.GetString(log).TrimEnd('\0', '\n') : "";
        }
    }

    private static string Failure(string call, int code) =>
        $"{call} gave {Utf8StringMarshaller.ConvertToManaged(Nvrtc.nvrtcGetErrorString(code)) ?? "an unknown result"} ({code})";
}
