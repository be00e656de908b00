using System.CommandLine;
using System.Globalization;
using System.Reflection;
using System.Text.Json.Nodes;
using FlashInfer.Compilation;
using FlashInfer.Measurement;
using Spectre.Console;

namespace FlashInfer.Tool;

/// <summary><c>flashinfer bench</c>: decode and prefill over a grid, beside what the device can do at best.</summary>
internal static class BenchCommand
{
    /// <summary>A result further from fp64 attention than this is wrong, whatever its speed.</summary>
    private const double LargestError = 1e-2;

    private static readonly Option<string> s_device = new("--device")
    {
        Description = "gpu, cpu, or auto: a GPU when one can be used.",
        HelpName = "KIND",
        DefaultValueFactory = static _ => "auto",
    };
    private static readonly Option<int> s_threads = Number("--threads", "Threads of the CPU.", Environment.ProcessorCount);
    private static readonly Option<int> s_heads = Number("--heads", "Query heads.", 32);
    private static readonly Option<int> s_kvHeads = Number("--kv-heads", "Key/value heads.", 8);
    private static readonly Option<int> s_headDim = Number("--head-dim", "Elements of a head.", 128);
    private static readonly Option<int> s_pageSize = Number("--page-size", "Tokens of a page.", 16);
    private static readonly Option<DType> s_dtype = Name("--dtype", "Element type of queries, keys and values.", DType.BFloat16);
    private static readonly Option<DType?> s_kvDtype = Name<DType?>(
        "--kv-dtype",
        "Element type of the cache; that of the queries when not given.",
        null
    );
    private static readonly Option<KvLayout> s_layout = Name("--layout", "Layout of the cache.", KvLayout.Nhd);
    private static readonly Option<string> s_decode = Grid("--decode", "Decode: batches of sequences with one query token each");
    private static readonly Option<string> s_prefill = Grid("--prefill", "Prefill: batches of prompts, causal, over pages");
    private static readonly Option<string> s_output = new("--output", "-o")
    {
        Description = "A folder for the results: as JSON, as CSV, and as a page of HTML with charts.",
        HelpName = "FOLDER",
    };

    public static Command Create()
    {
        Command command = new(
            "bench",
            "Measure decode and prefill on this machine, and what its memory and arithmetic can do at best in the same run. Without --decode and --prefill: both over the usual grid; with one of them: only that."
        )
        {
            s_device,
            s_threads,
            s_heads,
            s_kvHeads,
            s_headDim,
            s_pageSize,
            s_dtype,
            s_kvDtype,
            s_layout,
            s_decode,
            s_prefill,
            s_output,
            Options.Nvrtc,
            Options.CacheDirectory,
            BenchCompareCommand.Create(),
        };
        command.SetAction(static line => Output.Run(line, output => Run(line, output)));
        return command;
    }

    private static int Run(ParseResult line, Output output)
    {
        using Device device = Open(line);
        (DecodeCase[] decode, PrefillCase[] prefill) = Cases(line, device.Kind);
        using Rig rig = Rig.For(device, line.GetValue(s_threads));
        Ceilings ceilings = rig.MeasureCeilings();
        Results results = new(
            device,
            Version,
            ceilings,
            device.Cuda is null ? null : Options.Compiler(line).DescribeNvrtc().Version?.ToString()
        );
        List<Row> rows = [];
        Measure(
            output,
            [
                .. decode.Select(measured => (Work)(measured.Name, () => Decode(device, rig, measured, ceilings))),
                .. prefill.Select(measured => (Work)(measured.Name, () => Prefill(device, rig, measured, ceilings))),
            ],
            row =>
            {
                rows.Add(row);
                results.Add("bench", row);
            }
        );
        JsonObject json = results.ToJson("bench");
        output.Answer(json, _ => Write(device, ceilings, rows, output));
        if (line.GetValue(s_output) is { } folder)
        {
            Save(folder, results.NameOf("bench"), json);
        }

        Row[] wrong = [.. rows.Where(static row => !(row.RelError <= LargestError))];
        foreach (Row row in wrong)
        {
            Output.Note(
                string.Create(
                    CultureInfo.InvariantCulture,
                    $"{row.Bench} {row.Case} is wrong: its error relative to fp64 attention is {row.RelError:E1}, more than {LargestError:E0}. Please report it."
                )
            );
        }

        return wrong.Length == 0 ? ExitCode.Good : ExitCode.Bad;
    }

    /// <summary>The version of what is measured, with the commit that it was built from where that is known.</summary>
    private static string Version
    {
        get
        {
            const int CommitDigits = 7;
            string version =
                typeof(Device).Assembly.GetCustomAttribute<AssemblyInformationalVersionAttribute>()?.InformationalVersion ?? "unknown";
            int commit = version.IndexOf('+', StringComparison.Ordinal) + 1;
            return commit > 0 && version.Length > commit + CommitDigits ? version[..(commit + CommitDigits)] : version;
        }
    }

    private static Device Open(ParseResult line)
    {
        DeviceOptions options = new()
        {
            CpuThreads = line.GetValue(s_threads),
            LoggerFactory = WarningNotes.Instance,
            Compiler = new KernelCompilerOptions
            {
                NvrtcPath = line.GetValue(Options.Nvrtc),
                CacheDirectory = line.GetValue(Options.CacheDirectory),
            },
        };
        return line.GetValue(s_device) switch
        {
            "auto" => Device.Open(options),
            "gpu" => Device.OpenCuda(0, options),
            "cpu" => Device.OpenCpu(options),
            string other => throw new ToolException(ExitCode.Usage, $"--device is '{other}'; expected auto, gpu or cpu."),
            null => throw new ToolException(ExitCode.Usage, "--device is empty; expected auto, gpu or cpu."),
        };
    }

    private static (DecodeCase[] Decode, PrefillCase[] Prefill) Cases(ParseResult line, DeviceKind kind)
    {
        string? decode = line.GetValue(s_decode);
        string? prefill = line.GetValue(s_prefill);
        if (decode is null && prefill is null)
        {
            (decode, prefill) =
                kind == DeviceKind.Cuda
                    ? ("1x2048,8x2048,32x2048,128x2048,1x32768,8x8192,32x8192", "32x512,8x2048,2x8192,1x16384")
                    : ("1x512,1x4096,8x512,8x4096", "1x128,1x512,1x1024");
        }

        try
        {
            // Refused here, before anything is measured, when no kernel can serve it.
            AttentionSpec spec = new(
                line.GetValue(s_heads),
                line.GetValue(s_kvHeads),
                line.GetValue(s_headDim),
                line.GetValue(s_pageSize),
                line.GetValue(s_dtype),
                line.GetValue(s_kvDtype),
                line.GetValue(s_layout)
            );
            return (
                [
                    .. Sizes("--decode", decode)
                        .Select(size =>
                            DecodeCase.Uniform(spec.Heads, spec.KvHeads, size.Batch, size.Tokens) with
                            {
                                HeadDim = spec.HeadDim,
                                PageSize = spec.PageSize,
                                Dtype = spec.Dtype,
                                KvDtype = line.GetValue(s_kvDtype),
                                KvLayout = spec.KvLayout,
                            }
                        ),
                ],
                [
                    .. Sizes("--prefill", prefill)
                        .Select(size =>
                            PrefillCase.Square(spec.Heads, spec.KvHeads, size.Batch, size.Tokens) with
                            {
                                HeadDim = spec.HeadDim,
                                PageSize = spec.PageSize,
                                Dtype = spec.Dtype,
                                KvDtype = line.GetValue(s_kvDtype),
                                KvLayout = spec.KvLayout,
                            }
                        ),
                ]
            );
        }
        catch (ArgumentException e)
        {
            throw new ToolException(ExitCode.Usage, e.Message.Split(" (Parameter")[0]);
        }
    }

    private static IEnumerable<(int Batch, int Tokens)> Sizes(string option, string? grid)
    {
        foreach (string size in (grid ?? "").Split(',', StringSplitOptions.RemoveEmptyEntries | StringSplitOptions.TrimEntries))
        {
            string[] numbers = size.Split('x');
            if (
                numbers.Length != 2
                || !int.TryParse(numbers[0], NumberStyles.None, CultureInfo.InvariantCulture, out int batch)
                || !int.TryParse(numbers[1], NumberStyles.None, CultureInfo.InvariantCulture, out int tokens)
                || batch < 1
                || tokens < 1
            )
            {
                throw new ToolException(
                    ExitCode.Usage,
                    $"{option} has '{size}'; expected a batch and the tokens of each sequence, such as 8x2048, and several separated by commas."
                );
            }

            yield return (batch, tokens);
        }
    }

    private static Row Decode(Device device, Rig rig, DecodeCase measured, Ceilings ceilings)
    {
        using DecodeRun run = new(device, rig, measured);
        return run.Measure(ceilings);
    }

    private static Row Prefill(Device device, Rig rig, PrefillCase measured, Ceilings ceilings)
    {
        using PrefillRun run = new(device, rig, measured);
        return run.Measure(ceilings);
    }

    private static void Measure(Output output, Work[] work, Action<Row> done)
    {
        if (!output.ShowsProgress)
        {
            foreach (Work piece in work)
            {
                Output.Note($"measuring {piece.Name}");
                done(piece.Measure());
            }

            return;
        }

        output
            .Progress.Progress()
            .AutoClear(true)
            .Start(context =>
            {
                ProgressTask bar = context.AddTask("measuring", maxValue: Math.Max(1, work.Length));
                foreach (Work piece in work)
                {
                    bar.Description = Markup.Escape(piece.Name);
                    done(piece.Measure());
                    bar.Increment(1);
                }
            });
    }

    private static void Write(Device device, Ceilings ceilings, List<Row> rows, Output output)
    {
        output.Line(string.Create(CultureInfo.InvariantCulture, $"{device.Name}: {device.Reason}"));
        output.Line(
            string.Create(
                CultureInfo.InvariantCulture,
                $"At best, measured now: {ceilings.ReadGBps:F0} GB/s read from memory, {Roofline.Rate(ceilings.MathTflops ?? 0)} of multiplications and additions alone."
            )
        );
        output.Line();
        Table table = Output.Table("bench", "case", ">us", ">+-", ">GB/s", ">operations", ">of ceiling", "ceiling", ">error");
        foreach (Row row in rows)
        {
            table.AddRow(
                Output.Row(
                    row.Bench,
                    row.Case,
                    Text(row.Us, "0.0"),
                    Text(row.Spread, "0.0 %"),
                    Text(row.GBps, "0.0"),
                    row.Tflops is { } tflops ? Roofline.Rate(tflops) : "",
                    Text(row.FractionOfCeiling, "0.0 %"),
                    row.BoundBy ?? "",
                    Text(row.RelError, "0.0E0")
                )
            );
        }

        output.Write(table);
    }

    private static void Save(string folder, string name, JsonObject json)
    {
        Directory.CreateDirectory(folder);
        foreach (
            (string extension, string text) in new[]
            {
                ("json", Results.Text(json)),
                ("csv", ResultsCsv.Write(json)),
                ("html", ResultsReport.Write(json)),
            }
        )
        {
            string path = Path.GetFullPath(Path.Combine(folder, $"{name}.{extension}"));
            File.WriteAllText(path, text);
            Output.Note($"wrote {path}");
        }
    }

    private static string Text(double? value, string format) => value?.ToString(format, CultureInfo.InvariantCulture) ?? "";

    private static Option<int> Number(string name, string description, int usual) =>
        new(name)
        {
            Description = description,
            HelpName = "N",
            DefaultValueFactory = _ => usual,
            Validators =
            {
                result =>
                {
                    if (result.Tokens.Count == 1 && int.TryParse(result.Tokens[0].Value, out int n) && n < 1)
                    {
                        result.AddError($"{name} is {n}; expected 1 or more.");
                    }
                },
            },
        };

    private static Option<T> Name<T>(string name, string description, T usual) =>
        new(name)
        {
            Description = description,
            HelpName = "NAME",
            DefaultValueFactory = _ => usual,
        };

    private static Option<string> Grid(string name, string description) =>
        new(name) { Description = $"{description}: BATCHxTOKENS, several separated by commas, such as 1x4096,8x2048.", HelpName = "LIST" };

    /// <summary>A case that waits for its turn.</summary>
    private readonly record struct Work(string Name, Func<Row> Measure)
    {
        public static implicit operator Work((string Name, Func<Row> Measure) pair) => new(pair.Name, pair.Measure);
    }
}
