using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashInfer.Measurement;

/// <summary>What the device can do at best, measured in the same run.</summary>
/// <param name="ReadGBps">A kernel that only reads.</param>
/// <param name="CopyGBps">A kernel that copies, bytes read and written; null when it was not measured.</param>
/// <param name="MatmulTflops">A product of two large matrices by the peer; null without one.</param>
internal sealed record Ceilings(double ReadGBps, double? CopyGBps = null, double? MatmulTflops = null)
{
    /// <summary>Multiplications and additions of what lies in registers: on a GPU by the widest matrix instruction that the kernels use, on a CPU by the widest vectors.</summary>
    public double? MathTflops { get; init; }

    /// <summary>Microseconds that work takes at least: those of its reads or those of its operations, which can be done at the same time.</summary>
    /// <param name="bytes">Bytes that are read.</param>
    /// <param name="flops">Multiplications and additions.</param>
    public double Us(double bytes, double flops) => Math.Max(bytes / ReadGBps / 1e3, MathUs(flops));

    /// <summary>What of the two decides.</summary>
    public string BoundBy(double bytes, double flops) => bytes / ReadGBps / 1e3 >= MathUs(flops) ? "memory" : "math";

    private double MathUs(double flops) => MathTflops is { } math ? flops / math / 1e6 : 0;
}

/// <summary>One measured case; members that do not apply are null and left out of the file.</summary>
internal sealed record Row(string Bench, string Case, JsonObject Params)
{
    public double? Us { get; init; }

    /// <summary>The slowest round less the fastest, as a fraction of the median of all, which is <see cref="Us"/>.</summary>
    public double? Spread { get; init; }
    public double? GBps { get; init; }
    public double? Tflops { get; init; }
    public double? FractionOfCeiling { get; init; }

    /// <summary>Which ceiling that is: <c>memory</c> or <c>math</c>.</summary>
    public string? BoundBy { get; init; }

    /// <summary>What was timed in turn with this.</summary>
    public string? Peer { get; init; }

    /// <summary>The peer's time for the same work, or for as many operations at its rate.</summary>
    public double? PeerUs { get; init; }

    /// <summary>Prefill over pages: its rate over that of ragged keys and values, timed in turn.</summary>
    public double? RatioToRagged { get; init; }
    public double? RelError { get; init; }
    public double? MaxAbsError { get; init; }
    public long? AllocatedBytes { get; init; }

    /// <summary>Above 1 when this is faster than its peer.</summary>
    public double? RatioToPeer => PeerUs / Us;

    /// <summary>Rows of a file of <c>ROW|bench|case|microseconds|relative error</c> lines.</summary>
    public static IEnumerable<Row> Read(string file)
    {
        foreach (string line in File.ReadLines(file))
        {
            string[] fields = line.Split('|');
            if (fields is not ["ROW", var bench, var what, var us, var error])
            {
                throw new FormatException($"'{line}' of {file} is no row; expected ROW|bench|case|microseconds|relative error.");
            }

            yield return new Row(bench, what, [])
            {
                Us = us.Length > 0 ? double.Parse(us) : null,
                RelError = error.Length > 0 ? double.Parse(error) : null,
            };
        }
    }

    /// <summary>The row with a time.</summary>
    public Row With(Timing timing) => this with { Us = timing.Us, Spread = timing.Spread };

    public string ToLine()
    {
        StringBuilder line = new($"{Bench, -8} {Case, -62}");
        line.Append(Us is { } us ? $"{us, 10:F2} us" : "");
        line.Append(Spread is { } spread ? $" +{spread * 100, 5:F1} %" : "");
        line.Append(GBps is { } gbps ? $"{gbps, 9:F0} GB/s" : "");
        line.Append(Tflops is { } tflops ? $"{tflops, 9:F1} TFLOP/s" : "");
        line.Append(FractionOfCeiling is { } fraction ? $"{fraction, 7:F3} of ceiling" : "");
        line.Append(RatioToPeer is { } ratio ? $"{ratio, 7:F3} of {Peer}" : "");
        line.Append(RatioToRagged is { } ragged ? $"{ragged, 7:F3} of ragged" : "");
        line.Append(RelError is { } error ? $"  relError {error:E1}" : "");
        line.Append(MaxAbsError is { } most ? $"  maxAbsError {most:E1}" : "");
        line.Append(AllocatedBytes is { } bytes ? $"  {bytes} B allocated" : "");
        return line.ToString();
    }

    public JsonObject ToJson()
    {
        JsonObject json = new()
        {
            ["bench"] = Bench,
            ["case"] = Case,
            ["params"] = Params.DeepClone(),
        };
        Set("us", Us, 3);
        Set("spread", Spread, 4);
        Set("gbps", GBps, GBps < 10 ? 4 : 1);
        Set("tflops", Tflops, Tflops < 10 ? 7 : 1);
        Set("fractionOfCeiling", FractionOfCeiling, 4);
        if (BoundBy is not null)
        {
            json["boundBy"] = BoundBy;
        }

        if (Peer is not null)
        {
            json["peer"] = Peer;
        }

        Set("peerUs", PeerUs, 3);
        Set("ratioToPeer", RatioToPeer, 4);
        Set("ratioToRagged", RatioToRagged, 4);
        Set("relError", RelError, 10);
        Set("maxAbsError", MaxAbsError, 10);
        if (AllocatedBytes is { } bytes)
        {
            json["allocatedBytes"] = bytes;
        }

        return json;

        void Set(string name, double? value, int digits)
        {
            if (value is { } number)
            {
                json[name] = Math.Round(number, digits);
            }
        }
    }
}

/// <summary>A run's rows and the files they go to.</summary>
/// <param name="device">What was measured.</param>
/// <param name="commit">The version of the code that was.</param>
/// <param name="ceilings">Of the same run.</param>
/// <param name="nvrtc">The compiler of the kernels; null on a CPU.</param>
internal sealed class Results(Device device, string commit, Ceilings ceilings, string? nvrtc)
{
    private static readonly JsonSerializerOptions s_indented = new() { WriteIndented = true };

    private static readonly char[] s_separators = [' ', '-', '(', ')', ',', '/'];

    private readonly Dictionary<string, JsonArray> _files = [];
    private readonly string _date = DateTime.UtcNow.ToString("yyyy-MM-dd");

    /// <summary>Adds a row to the file that is named after this bench.</summary>
    public void Add(string file, Row row)
    {
        if (!_files.TryGetValue(file, out JsonArray? rows))
        {
            _files.Add(file, rows = []);
        }

        rows.Add(row.ToJson());
    }

    /// <summary>What a file says.</summary>
    public JsonObject ToJson(string file)
    {
        JsonObject json = new() { ["device"] = device.Name };
        if (device.Cuda is { } cuda)
        {
            json["driver"] = cuda.DriverVersion.ToString();
            json["nvrtc"] = nvrtc;
        }

        json["date"] = _date;
        json["commit"] = commit;
        JsonObject measured = new();
        Set("readGBps", ceilings.ReadGBps, 1);
        Set("copyGBps", ceilings.CopyGBps, 1);
        Set("matmulTflops", ceilings.MatmulTflops, 1);
        Set("mathTflops", ceilings.MathTflops, 7);
        json["ceilings"] = measured;
        json["rows"] = _files.TryGetValue(file, out JsonArray? rows) ? rows.DeepClone() : new JsonArray();
        // As a reader of the file has it: a number that was not parsed is of one type only.
        return JsonNode.Parse(json.ToJsonString())!.AsObject();

        void Set(string name, double? value, int digits)
        {
            if (value is { } number)
            {
                measured[name] = Math.Round(number, digits);
            }
        }
    }

    /// <summary>The name of a file, without what it ends in: date, device, bench.</summary>
    public string NameOf(string file)
    {
        string[] words = device.Name.ToLowerInvariant().Replace("nvidia ", "").Split(s_separators, StringSplitOptions.RemoveEmptyEntries);
        return $"{_date}-{string.Join('-', words)}-{file}";
    }

    /// <summary>Writes the files and returns their paths.</summary>
    public IEnumerable<string> Save(string folder)
    {
        Directory.CreateDirectory(folder);
        foreach (string file in _files.Keys)
        {
            string path = Path.Combine(folder, $"{NameOf(file)}.json");
            File.WriteAllText(path, Text(ToJson(file)));
            yield return path;
        }
    }

    /// <summary>The text of a file.</summary>
    public static string Text(JsonObject json) => json.ToJsonString(s_indented) + "\n";
}
