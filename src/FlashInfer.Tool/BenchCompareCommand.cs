using System.CommandLine;
using System.Globalization;
using System.Text.Json;
using System.Text.Json.Nodes;
using FlashInfer.Measurement;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer bench compare</c>: two results files side by side.</summary>
internal static class BenchCompareCommand
{
    private static readonly Argument<string> s_before = new("before") { Description = "A results file: JSON that bench wrote." };
    private static readonly Argument<string> s_after = new("after") { Description = "Another one, over the same grid." };
    private static readonly Option<double> s_tolerance = new("--tolerance")
    {
        Description = "By how many percent a case may become slower. What the rounds of a run differ by is allowed as well.",
        HelpName = "PERCENT",
        DefaultValueFactory = static _ => 5,
    };
    private static readonly Option<string> s_html = new("--html")
    {
        Description = "A page of HTML to write, with a chart.",
        HelpName = "FILE",
    };

    public static Command Create()
    {
        Command command = new("compare", "Compare two results files; the exit code is 1 when a case became slower.")
        {
            s_before,
            s_after,
            s_tolerance,
            s_html,
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        double percent = line.GetValue(s_tolerance);
        if (!(percent >= 0))
        {
            throw new ToolException(
                ExitCode.Usage,
                $"--tolerance is {percent.ToString(CultureInfo.InvariantCulture)}; expected 0 or more percent."
            );
        }

        double tolerance = percent / 100;
        ResultsComparison comparison = Compare(Read(line.GetRequiredValue(s_before)), Read(line.GetRequiredValue(s_after)));
        CompareReport report = new(
            comparison.Speedup,
            comparison.Unpaired,
            [
                .. comparison.Cases.Select(compared => new ComparedReport(
                    compared.Bench,
                    compared.Case,
                    compared.BeforeUs,
                    compared.AfterUs,
                    compared.Speedup,
                    compared.Noise,
                    compared.Verdict(tolerance)
                )),
            ]
        );
        output.Answer(report, _ => Write(report, comparison, output));
        if (line.GetValue(s_html) is { } page)
        {
            File.WriteAllText(page, ResultsReport.Write(comparison, tolerance));
            Output.Note($"wrote {Path.GetFullPath(page)}");
        }

        return report.Cases.Any(static compared => compared.Verdict == "slower") ? ExitCode.Bad : ExitCode.Good;
    }

    private static ResultsComparison Compare(JsonObject before, JsonObject after)
    {
        try
        {
            return ResultsComparison.Of(before, after);
        }
        catch (FormatException e)
        {
            throw new ToolException(ExitCode.Usage, e.Message);
        }
    }

    private static JsonObject Read(string path)
    {
        if (!File.Exists(path))
        {
            throw new ToolException(ExitCode.Usage, $"The results file '{path}' is not there.");
        }

        try
        {
            if (JsonNode.Parse(File.ReadAllText(path)) is JsonObject file && file["rows"] is JsonArray && file["ceilings"] is JsonObject)
            {
                return file;
            }
        }
        catch (JsonException)
        {
            // Said below.
        }

        throw new ToolException(
            ExitCode.Usage,
            $"'{path}' is no results file; expected JSON with rows and ceilings, as flashinfer bench --output writes it."
        );
    }

    private static void Write(CompareReport report, ResultsComparison comparison, Output output)
    {
        if ((string?)comparison.Before["device"] != (string?)comparison.After["device"])
        {
            output.Line($"Two devices: {comparison.Before["device"]}, and {comparison.After["device"]}.");
        }

        Table table = Output.Table("bench", "case", ">before us", ">after us", ">times as fast", ">noise", "verdict");
        foreach (ComparedReport compared in report.Cases)
        {
            table.AddRow(
                Output.Row(
                    compared.Bench,
                    compared.Case,
                    Text(compared.BeforeUs, "0.0"),
                    Text(compared.AfterUs, "0.0"),
                    Text(compared.Speedup, "0.000"),
                    Text(compared.Noise, "0.0 %"),
                    compared.Verdict
                )
            );
        }

        output.Write(table);
        output.Line();
        output.Line(
            $"{Output.Count(report.Cases.Count, "case")}, on the geometric mean {Text(report.Speedup, "0.000")} times as fast; {report.Cases.Count(static c => c.Verdict == "slower")} slower, {report.Cases.Count(static c => c.Verdict == "faster")} faster{(report.Unpaired > 0 ? $"; {report.Unpaired} only in one of the files" : "")}"
        );
    }

    private static string Text(double value, string format) => value.ToString(format, CultureInfo.InvariantCulture);
}
