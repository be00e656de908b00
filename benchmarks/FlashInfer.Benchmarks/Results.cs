using System.Text;
using System.Text.Json;
using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>What the device can do at best, measured in the same run.</summary>
internal sealed record Ceilings(double ReadGBps, double CopyGBps);

/// <summary>One measured case; members that do not apply are null and left out of the file.</summary>
internal sealed record Row(string Bench, string Case, JsonObject Params)
{
    public double? Us { get; init; }

    /// <summary>The slowest of five rounds less the fastest, as a fraction of their median, which is <see cref="Us"/>.</summary>
    public double? Spread { get; init; }
    public double? GBps { get; init; }
    public double? FractionOfCeiling { get; init; }
    public double? RelError { get; init; }
    public double? MaxAbsError { get; init; }
    public long? AllocatedBytes { get; init; }

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
        line.Append(FractionOfCeiling is { } fraction ? $"{fraction, 7:F3} of ceiling" : "");
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
        Set("gbps", GBps, 1);
        Set("fractionOfCeiling", FractionOfCeiling, 4);
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

/// <summary>A run's rows and the file they go to.</summary>
internal sealed class Results(Device device, string commit, Ceilings ceilings, string nvrtc)
{
    private readonly JsonArray _rows = [];

    public string Nvrtc => nvrtc;

    public void Add(Row row) => _rows.Add(row.ToJson());

    public string Save(string folder)
    {
        Directory.CreateDirectory(folder);
        string date = DateTime.UtcNow.ToString("yyyy-MM-dd");
        string name = string.Concat(device.Name.ToLowerInvariant().Replace("nvidia ", "").Select(c => char.IsLetterOrDigit(c) ? c : '-'));
        JsonObject file = new()
        {
            ["device"] = device.Name,
            ["driver"] = device.Cuda!.DriverVersion.ToString(),
            ["nvrtc"] = nvrtc,
            ["date"] = date,
            ["commit"] = commit,
            ["ceilings"] = new JsonObject
            {
                ["readGBps"] = Math.Round(ceilings.ReadGBps, 1),
                ["copyGBps"] = Math.Round(ceilings.CopyGBps, 1),
            },
            ["rows"] = _rows,
        };
        string path = Path.Combine(folder, $"{date}-{name}-decode.json");
        File.WriteAllText(path, file.ToJsonString(new JsonSerializerOptions { WriteIndented = true }) + "\n");
        return path;
    }
}
