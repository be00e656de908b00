using System.CommandLine;
using System.Text.RegularExpressions;
using FlashInfer.Compilation;
using FlashInfer.Cuda;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer cache</c>: what the kernel cache holds, whether it is whole, and emptying it.</summary>
internal static partial class CacheCommand
{
    public static Command Create()
    {
        Command list = new("list", "List the kernels in the cache.") { Options.CacheDirectory };
        list.SetAction(static line => Output.Run(line, output => List(line, output, verify: false)));
        Command verify = new("verify", "Read every kernel in the cache and check it; the exit code is 1 when one is damaged.")
        {
            Options.CacheDirectory,
        };
        verify.SetAction(static line => Output.Run(line, output => List(line, output, verify: true)));
        Command clear = new("clear", "Delete the kernels in the cache; programs compile them again when they need them.")
        {
            Options.CacheDirectory,
        };
        clear.SetAction(static line => Output.Run(line, output => Clear(line, output)));
        return new Command("cache", "Look at the kernel cache, or empty it.") { list, verify, clear };
    }

    /// <summary>The cache's folder: the one named, else that of every program of this user.</summary>
    /// <exception cref="ToolException">The user has none.</exception>
    public static string Folder(string? named)
    {
        string profile = Environment.GetFolderPath(Environment.SpecialFolder.UserProfile);
        NativeLocatorHost host = NativeLocatorHost.System;
        string? folder = string.IsNullOrWhiteSpace(named) ? KernelCache.DefaultFolder(host.Variable, profile, host.IsWindows) : named;
        return folder is not null
            ? Path.GetFullPath(folder)
            : throw new ToolException(ExitCode.Bad, "This user has no cache folder; name one with --cache-dir or FLASHINFER_CACHE_DIR.");
    }

    /// <summary>The entries of a folder, sorted by name; none when it is not there. Only what has the cache's names: the folder may be anybody's.</summary>
    public static string[] Files(string folder) =>
        Directory.Exists(folder)
            ? [.. Directory.GetFiles(folder).Where(static path => Entry().IsMatch(Path.GetFileName(path))).Order(StringComparer.Ordinal)]
            : [];

    private static int List(ParseResult line, Output output, bool verify)
    {
        string folder = Folder(line.GetValue(Options.CacheDirectory));
        CacheListReport report = new(folder, [.. Files(folder).Select(Read)]);
        int damaged = report.Entries.Count(static entry => !entry.IsWhole);
        output.Answer(report, _ => Write(report, damaged, verify, output));
        return verify && damaged > 0 ? ExitCode.Bad : ExitCode.Good;
    }

    private static CacheEntryReport Read(string path)
    {
        byte[] file = File.ReadAllBytes(path);
        bool isWhole = KernelCacheFile.TryDecode(file, out KernelCacheEntry? entry) && CubinImage.Problem(entry.Cubin) is null;
        string name = Path.GetFileName(path);
        string? unit = entry is null ? null : name.Split('-')[0];
        return new CacheEntryReport(name, unit, entry?.Architecture, entry?.Compiler, file.Length, isWhole);
    }

    private static void Write(CacheListReport report, int damaged, bool verify, Output output)
    {
        if (report.Entries.Count > 0)
        {
            Table table = Output.Table("kernel", "for", "by", ">size", "state");
            foreach (CacheEntryReport entry in report.Entries.Where(entry => !verify || !entry.IsWhole))
            {
                table.AddRow(
                    Output.Row(
                        entry.Unit ?? entry.File,
                        entry.Architecture ?? "",
                        entry.Compiler ?? "",
                        Output.Bytes(entry.Bytes),
                        entry.IsWhole ? "whole" : "damaged"
                    )
                );
            }

            if (table.Rows.Count > 0)
            {
                output.Write(table);
                output.Line();
            }
        }

        long bytes = report.Entries.Sum(static entry => entry.Bytes);
        output.Line(
            $"{report.Folder}: {Output.Count(report.Entries.Count, "kernel")}, {Output.Bytes(bytes)}, {(damaged == 0 ? "all whole" : $"{damaged} damaged")}"
        );
        if (damaged > 0)
        {
            output.Line("A damaged kernel is compiled again, and replaced, by the program that needs it.");
        }
    }

    private static int Clear(ParseResult line, Output output)
    {
        string folder = Folder(line.GetValue(Options.CacheDirectory));

        string[] files =
        [
            .. Files(folder),
            .. Directory.Exists(folder)
                ? Directory.GetFiles(folder, $"*{KernelCache.EntryExtension}.*{KernelCache.TemporaryExtension}")
                : [],
        ];
        long bytes = 0;
        foreach (string file in files)
        {
            bytes += new FileInfo(file).Length;
            File.Delete(file);
        }

        CacheClearReport report = new(folder, files.Length, bytes);
        output.Answer(report, _ => output.Line($"{folder}: {Output.Count(files.Length, "file")} deleted, {Output.Bytes(bytes)}"));
        return ExitCode.Good;
    }

    [GeneratedRegex(@"-sm_\w+-[0-9a-f]{16}\.cubin$")]
    private static partial Regex Entry();
}
