using System.Text.RegularExpressions;

namespace FlashInfer.Compilation;

/// <summary>The options that every kernel is compiled with; nothing else passes any.</summary>
internal static partial class NvrtcOptions
{
    /// <summary>The options for an architecture.</summary>
    public static string[] For(string architecture, bool lineInfo)
    {
        string[] options =
        [
            // A real architecture (sm_, not compute_) makes NVRTC run ptxas too: the result is a cubin, and the driver compiles nothing.
            $"--gpu-architecture={architecture}",
            "--std=c++17",
            // The report of registers and spills, in the log.
            "--ptxas-options=-v",
            // NVRTC would otherwise change the stack limit of the whole process while it compiles.
            "--modify-stack-limit=false",
        ];
        return lineInfo ? [.. options, "-lineinfo"] : options;
    }

    /// <summary>Refuses what is not a real architecture. Which ones exist is NVRTC's to say.</summary>
    public static void CheckArchitecture(string architecture)
    {
        ArgumentNullException.ThrowIfNull(architecture);
        if (!Architecture().IsMatch(architecture))
        {
            throw new ArgumentException(
                $"'{architecture}' is not a GPU architecture; expected sm_ and the compute capability, such as sm_80 or sm_90a.",
                nameof(architecture)
            );
        }
    }

    [GeneratedRegex(@"\Asm_[1-9][0-9]{1,2}[af]?\z")]
    private static partial Regex Architecture();
}
