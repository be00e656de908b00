using System.Globalization;
using System.Text.RegularExpressions;

namespace FlashInfer.Compilation;

/// <summary>Reads what ptxas writes with <c>-v</c>, and its notes on performance.</summary>
internal static partial class PtxasReport
{
    // Most C75xx notes say that wgmma instructions are serialised, which halves their speed or worse. C7517 only says that ptxas
    // put in a wait of its own.
    private const string HarmlessNote = "C7517";

    /// <summary>The resources of each entry point.</summary>
    public static IReadOnlyList<KernelResources> Parse(string log)
    {
        List<KernelResources> entries = [];
        string function = "";
        foreach (ReadOnlySpan<char> raw in log.AsSpan().EnumerateLines())
        {
            string line = raw.ToString();
            if (Entry().Match(line) is { Success: true } entry)
            {
                function = entry.Groups[1].Value;
                entries.Add(new KernelResources(function, 0, 0, 0, 0, 0));
            }
            else if (Properties().Match(line) is { Success: true } properties)
            {
                // A function that was not inlined has properties of its own; they are not those of the entry that calls it.
                function = properties.Groups[1].Value;
            }
            else if (entries.Count > 0 && Stack().Match(line) is { Success: true } stack && function == entries[^1].Entry)
            {
                entries[^1] = entries[^1] with
                {
                    StackBytes = Number(stack.Groups[1]),
                    SpillStoreBytes = Number(stack.Groups[2]),
                    SpillLoadBytes = Number(stack.Groups[3]),
                };
            }
            else if (entries.Count > 0 && Registers().Match(line) is { Success: true } registers)
            {
                Match shared = Shared().Match(line);
                entries[^1] = entries[^1] with
                {
                    Registers = Number(registers.Groups[1]),
                    StaticSharedBytes = shared.Success ? Number(shared.Groups[1]) : 0,
                };
            }
        }

        return entries;
    }

    /// <summary>The lines that tell of lost performance: any C75xx note but the harmless one.</summary>
    public static IReadOnlyList<string> PerformanceNotes(string log)
    {
        List<string> notes = [];
        foreach (ReadOnlySpan<char> raw in log.AsSpan().EnumerateLines())
        {
            string line = raw.Trim().ToString();
            if (Note().Match(line) is { Success: true } note && note.Value != HarmlessNote)
            {
                notes.Add(line);
            }
        }

        return notes;
    }

    private static int Number(Group group) => int.Parse(group.ValueSpan, NumberStyles.None, CultureInfo.InvariantCulture);

    [GeneratedRegex(@"Compiling entry function '([^']+)' for")]
    private static partial Regex Entry();

    [GeneratedRegex(@"Function properties for (\S+)")]
    private static partial Regex Properties();

    [GeneratedRegex(@"(\d+) bytes stack frame, (\d+) bytes spill stores, (\d+) bytes spill loads")]
    private static partial Regex Stack();

    [GeneratedRegex(@"Used (\d+) registers")]
    private static partial Regex Registers();

    [GeneratedRegex(@"(\d+) bytes smem")]
    private static partial Regex Shared();

    [GeneratedRegex(@"\bC75\d\d\b")]
    private static partial Regex Note();
}
