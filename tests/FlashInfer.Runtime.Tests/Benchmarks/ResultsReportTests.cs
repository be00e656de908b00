using System.Globalization;
using System.Text.Json.Nodes;
using System.Text.RegularExpressions;
using System.Xml.Linq;
using FlashInfer.Tests.PublicApi;

namespace FlashInfer.Tests.Benchmarks;

/// <summary>The pages of the tool's <c>bench</c>, of runs that were recorded: whole, readable by any browser, and alone.</summary>
public partial class ResultsReportTests
{
    private static readonly XNamespace s_svg = "http://www.w3.org/2000/svg";

    public static TheoryData<string> Files => [.. Runs()];

    [Theory]
    [MemberData(nameof(Files))]
    public void The_page_of_a_run_is_well_formed_and_needs_nothing_else(string name)
    {
        JsonObject file = Read(ApprovedFile.RepositoryPath("benchmarks", "results", name));
        XDocument page = Check(ResultsReport.Write(file));

        string[] benches = [.. file["rows"]!.AsArray().Select(static row => (string)row!["bench"]!)];
        Assert.Equal(benches.Distinct(), page.Descendants("h2").Select(static title => title.Value));
        Assert.Equal(benches.Length, page.Descendants("tr").Count(static row => row.Elements("td").Any()));
        // A table has the columns that its rows fill.
        Assert.All(
            page.Descendants("table"),
            static table =>
            {
                XElement[][] rows = [.. table.Elements("tr").Select(static row => row.Elements().ToArray())];
                Assert.All(rows, row => Assert.Equal(rows[0].Length, row.Length));
                Assert.All(Enumerable.Range(0, rows[0].Length), column => Assert.Contains(rows.Skip(1), row => row[column].Value != ""));
            }
        );
        Assert.NotEmpty(page.Descendants("figure"));
    }

    [Fact]
    public void The_page_of_a_comparison_is_well_formed_and_needs_nothing_else()
    {
        string name = Runs().Last(static name => name.EndsWith("-decode.json", StringComparison.Ordinal));
        JsonObject before = Read(ApprovedFile.RepositoryPath("benchmarks", "results", name));
        JsonObject after = (JsonObject)before.DeepClone();
        foreach (JsonNode? row in after["rows"]!.AsArray())
        {
            // A row of the oracle has an error, but no time.
            if (row!["us"] is { } time)
            {
                row["us"] = (double)time / 4;
            }

            // What has to be escaped.
            row["case"] = $"{row["case"]} <&\"> é";
        }

        foreach (JsonNode? row in before["rows"]!.AsArray())
        {
            row!["case"] = $"{row["case"]} <&\"> é";
        }

        ResultsComparison comparison = ResultsComparison.Of(before, after);
        XDocument page = Check(ResultsReport.Write(comparison, tolerance: 0.01));

        Assert.Equal(1 + comparison.Cases.Count, page.Descendants("tr").Count());
        Assert.All(page.Descendants("tr").Skip(1), static row => Assert.Equal("4.000", row.Elements().ElementAt(4).Value));
    }

    // Read as XML, which is stricter than HTML.
    private static XDocument Check(string html)
    {
        XDocument page = XDocument.Parse(html);
        Assert.Equal("html", page.Root!.Name.LocalName);
        Assert.NotEqual("", page.Descendants("title").Single().Value);
        // Of everything that can fetch: the name of SVG's namespace is no address.
        string[] fetching = ["script", "link", "img", "iframe", "object", "use"];
        Assert.DoesNotContain(page.Descendants(), e => fetching.Contains(e.Name.LocalName));
        Assert.DoesNotContain(page.Descendants().Attributes(), static a => a.Name.LocalName is "src" or "href" or "style");
        Assert.DoesNotMatch(Fetching(), html);
        foreach (XElement svg in page.Descendants(s_svg + "svg"))
        {
            double width = Number(svg.Attribute("width")!);
            double height = Number(svg.Attribute("height")!);
            Assert.Equal(string.Create(CultureInfo.InvariantCulture, $"0 0 {width} {height}"), svg.Attribute("viewBox")!.Value);
            foreach (XElement text in svg.Descendants(s_svg + "text").Where(static text => text.Attribute("transform") is null))
            {
                Assert.InRange(Number(text.Attribute("x")!), 0, width);
                Assert.InRange(Number(text.Attribute("y")!), 0, height);
            }

            foreach (XElement bar in svg.Descendants(s_svg + "rect").Where(static bar => bar.Attribute("x") is not null))
            {
                Assert.InRange(Number(bar.Attribute("x")!), 0, width);
                Assert.InRange(Number(bar.Attribute("x")!) + Number(bar.Attribute("width")!), 0, width);
            }

            Assert.All(svg.Descendants(s_svg + "path"), static path => Assert.DoesNotMatch("NaN|Infinity|∞", path.Attribute("d")!.Value));
        }

        return page;
    }

    private static IEnumerable<string> Runs() =>
        Directory
            .GetFiles(ApprovedFile.RepositoryPath("benchmarks", "results"), "*.json")
            .Where(IsRun)
            .Select(static file => Path.GetFileName(file))
            .Order(StringComparer.Ordinal);

    // Those that the tool and the benchmarks wrote; others have rows that were measured by hand.
    private static bool IsRun(string file) =>
        RunName().IsMatch(file)
        && Read(file)["ceilings"]?["readGBps"] is not null
        && Read(file)["rows"]!.AsArray().All(static row => row!["params"] is not null);

    private static JsonObject Read(string file) => JsonNode.Parse(File.ReadAllText(file))!.AsObject();

    private static double Number(XAttribute attribute) => double.Parse(attribute.Value, CultureInfo.InvariantCulture);

    [GeneratedRegex("-(bench|decode|prefill).json$")]
    private static partial Regex RunName();

    [GeneratedRegex(@"url\(|@import|\bhttps?://(?!www\.w3\.org/2000/svg"")")]
    private static partial Regex Fetching();
}
