namespace FlashInfer.Compilation;

/// <summary>The options that every kernel is compiled with; nothing else passes any.</summary>
internal static class NvrtcOptions
{
    /// <summary>The oldest NVRTC that is known to take these options and to compile the kernels without spills.</summary>
    public static Version OldestNvrtc { get; } = new(12, 4);

    /// <summary>The options for an architecture.</summary>
    public static string[] For(string architecture, bool lineInfo)
    {
        string[] options =
        [
            // A real architecture (sm_, not compute_) makes NVRTC run ptxas too: the result is a cubin, and the driver compiles nothing.
            $"--gpu-architecture={architecture}",
            "--std=c++17",
            // Leaves out what NVRTC predefines for programs without headers of their own (printf, malloc, ...): the same cubin, sooner.
            "--minimal",
            // The report of registers and spills, in the log.
            "--ptxas-options=-v",
            // NVRTC would otherwise change the stack limit of the whole process while it compiles.
            "--modify-stack-limit=false",
        ];
        return lineInfo ? [.. options, "-lineinfo"] : options;
    }

    /// <summary>The options for PTX: of the virtual architecture, without those of ptxas, which has no part in it.</summary>
    public static string[] ForPtx(string architecture, bool lineInfo) =>
        [
            $"--gpu-architecture=compute_{architecture["sm_".Length..]}",
            .. For(architecture, lineInfo).Skip(1).Where(static option => !option.StartsWith("--ptxas-options", StringComparison.Ordinal)),
        ];

    /// <summary>Refuses what is not a real architecture. Which ones exist is NVRTC's to say.</summary>
    public static void CheckArchitecture(string architecture)
    {
        ArgumentNullException.ThrowIfNull(architecture);
        if (!IsArchitecture(architecture))
        {
            throw new ArgumentException(
                $"'{architecture}' is not a GPU architecture; expected sm_ and the compute capability, such as sm_80 or sm_90a.",
                nameof(architecture)
            );
        }
    }

    // sm_, two or three digits, perhaps a or f. By hand: this is on the way to a cached kernel, where loading the regular expressions
    // of the base class library would take longer than all the rest.
    private static bool IsArchitecture(string text)
    {
        const string Prefix = "sm_";
        if (!text.StartsWith(Prefix, StringComparison.Ordinal))
        {
            return false;
        }

        ReadOnlySpan<char> digits = text.AsSpan(Prefix.Length);
        if (digits is [.., 'a' or 'f'])
        {
            digits = digits[..^1];
        }

        bool isNumber = digits.Length is 2 or 3 && digits[0] != '0';
        foreach (char c in digits)
        {
            isNumber &= char.IsAsciiDigit(c);
        }

        return isNumber;
    }
}
