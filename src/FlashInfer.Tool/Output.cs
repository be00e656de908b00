using System.CommandLine;
using System.Globalization;
using System.Text.Encodings.Web;
using System.Text.Json;
using FlashInfer.Compilation;
using Spectre.Console;
using Spectre.Console.Rendering;

namespace FlashInfer.Tool;

/// <summary>Where a command's answer goes: text for people, coloured on a terminal and plain elsewhere, or JSON for programs.</summary>
internal sealed class Output
{
    // Text that goes to a file is not wrapped.
    private const int UnboundedWidth = 10_000;

    // What is written is read by programs, or by people; never as part of a page of HTML.
    private static readonly ReportJson s_json = new(
        new JsonSerializerOptions(ReportJson.Default.Options) { Encoder = JavaScriptEncoder.UnsafeRelaxedJsonEscaping }
    );

    private readonly IAnsiConsole _console;

    private Output(bool isJson)
    {
        IsJson = isJson;
        _console = CreateConsole(Console.Out, Console.IsOutputRedirected);
        Progress = CreateConsole(Console.Error, Console.IsErrorRedirected);
        ShowsProgress = !isJson && !Console.IsErrorRedirected;
    }

    /// <summary>Whether the answer is JSON.</summary>
    public bool IsJson { get; }

    /// <summary>Whether somebody watches.</summary>
    public bool ShowsProgress { get; }

    /// <summary>The standard error, for bars that move.</summary>
    public IAnsiConsole Progress { get; }

    /// <summary>Runs a command; every failure that a user can have ends in one line and an exit code.</summary>
    public static int Run(ParseResult line, Func<Output, int> command)
    {
        Output output = new(line.GetValue(Options.Json));
        try
        {
            return command(output);
        }
        catch (ToolException e)
        {
            return output.Fail(e.ExitCode, e.Message);
        }
        catch (Exception e) when (e is FlashInferException or IOException or UnauthorizedAccessException)
        {
            return output.Fail(ExitCode.Bad, e.Message);
        }
    }

    /// <summary>Writes the answer in the form that was asked for.</summary>
    public void Answer<T>(T answer, Action<T> text)
    {
        if (IsJson)
        {
            WriteJson(answer);
        }
        else
        {
            text(answer);
        }
    }

    public void Line(string text = "") => _console.WriteLine(text);

    /// <summary>Writes text that wraps to the terminal's width. A table does not: its lines stay whole, and are the terminal's to break.</summary>
    public void Write(IRenderable what)
    {
        if (!Console.IsOutputRedirected)
        {
            int width = _console.Profile.Width;
            _console.Profile.Width = what is Table ? UnboundedWidth : width;
            _console.Write(what);
            _console.Profile.Width = width;
            return;
        }

        // Columns are filled up with spaces, of which a file needs none at the end of a line.
        using StringWriter text = new();
        CreateConsole(text, isRedirected: true).Write(what);
        foreach (string line in text.ToString().TrimEnd().Split('\n'))
        {
            Line(line.TrimEnd());
        }
    }

    /// <summary>A remark that is no part of the answer.</summary>
    public static void Note(string text) => Console.Error.WriteLine($"flashinfer: {text}");

    /// <summary>A table without lines between its rows: it reads the same in a file.</summary>
    public static Table Table(params ReadOnlySpan<string> columns)
    {
        Table table = new() { Border = TableBorder.None };
        foreach (string column in columns)
        {
            bool isNumber = column[0] == '>';
            TableColumn header = new(new Text(isNumber ? column[1..] : column, new Style(decoration: Decoration.Bold)))
            {
                Alignment = isNumber ? Justify.Right : Justify.Left,
                NoWrap = true,
                Padding = new Padding(0, 0, 2, 0),
            };
            table.AddColumn(header);
        }

        return table;
    }

    /// <summary>A row of plain text.</summary>
    public static IEnumerable<IRenderable> Row(params string[] cells) => cells.Select(static cell => new Text(cell));

    public static string Bytes(long bytes) =>
        bytes switch
        {
            < 1000 => $"{bytes} B",
            < 1_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e3:0.#} KB"),
            < 1_000_000_000 => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e6:0.0} MB"),
            _ => string.Create(CultureInfo.InvariantCulture, $"{bytes / 1e9:0.0} GB"),
        };

    public static string Count(int count, string one) => count == 1 ? $"1 {one}" : $"{count} {one}s";

    public static string Word(KernelOrigin? origin) =>
        origin switch
        {
            KernelOrigin.Bundle => "bundle",
            KernelOrigin.Cache => "cache",
            KernelOrigin.Compiled => "compiled now",
            _ => "nowhere",
        };

    private int Fail(int exitCode, string message)
    {
        if (IsJson)
        {
            WriteJson(new FailureReport(message));
        }

        // In the form that MSBuild takes for an error of the project: one line. The rest, such as a compiler's log, follows as it is.
        string[] lines = message.Split('\n', 2);
        Console.Error.WriteLine($"flashinfer: error: {lines[0]}");
        if (lines.Length > 1)
        {
            Console.Error.WriteLine(lines[1]);
        }

        return exitCode;
    }

    private static void WriteJson<T>(T answer) => Console.Out.WriteLine(JsonSerializer.Serialize(answer, typeof(T), s_json));

    private static IAnsiConsole CreateConsole(TextWriter writer, bool isRedirected)
    {
        IAnsiConsole console = AnsiConsole.Create(
            new AnsiConsoleSettings
            {
                Out = new AnsiConsoleOutput(writer),
                Ansi = isRedirected ? AnsiSupport.No : AnsiSupport.Detect,
                ColorSystem = isRedirected ? ColorSystemSupport.NoColors : ColorSystemSupport.Detect,
                Interactive = isRedirected ? InteractionSupport.No : InteractionSupport.Detect,
            }
        );
        if (isRedirected)
        {
            console.Profile.Width = UnboundedWidth;
        }

        return console;
    }
}
