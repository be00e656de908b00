using System.Diagnostics;
using System.Text.Json.Nodes;

namespace FlashInfer.Benchmarks;

/// <summary>
/// PyTorch's attention, timed by a script in a child process: one JSON object a line goes in, one comes out. See
/// <c>benchmarks/peers/torch_peers.py</c>.
/// </summary>
internal sealed class TorchPeer : IDisposable
{
    private readonly Process _process;
    private readonly TextWriter _log;
    private readonly HashSet<string> _told = [];

    private TorchPeer(Process process, JsonNode hello, TextWriter log)
    {
        _process = process;
        _log = log;
        Version = $"torch {hello["torch"]}";
        CuDnn = $"cuDNN {hello["cudnn"]}";
        Flash = $"{Version} flash";
    }

    /// <summary>Where the build puts the script.</summary>
    public static string Script => Path.Combine(AppContext.BaseDirectory, "torch_peers.py");

    /// <summary>The library.</summary>
    public string Version { get; }

    /// <summary>What rows call its cuDNN backend.</summary>
    public string CuDnn { get; }

    /// <summary>What rows call its own FlashAttention-2.</summary>
    public string Flash { get; }

    /// <summary>Starts the script, or says why there will be no peer and returns null.</summary>
    /// <param name="python">The interpreter.</param>
    /// <param name="script">The script.</param>
    /// <param name="log">Where to say it.</param>
    public static TorchPeer? Start(string python, string script, TextWriter log)
    {
        Process? process = null;
        string? reason;
        try
        {
            process = Process.Start(
                new ProcessStartInfo(python, [script])
                {
                    RedirectStandardInput = true,
                    RedirectStandardOutput = true,
                    RedirectStandardError = true,
                }
            )!;
            if (process.StandardOutput.ReadLine() is { } hello)
            {
                // Warnings of PyTorch: nobody reads them, but the pipe must not fill up.
                process.ErrorDataReceived += (_, _) => { };
                process.BeginErrorReadLine();
                return new TorchPeer(process, JsonNode.Parse(hello)!, log);
            }

            reason = process.StandardError.ReadToEnd().TrimEnd().Split('\n')[^1];
        }
        catch (System.ComponentModel.Win32Exception e)
        {
            reason = e.Message;
        }

        process?.Dispose();
        log.WriteLine($"no peer: '{python}' with PyTorch and a GPU was wanted, but {reason}");
        return null;
    }

    /// <summary>Microseconds of one attention, or null where PyTorch has none; then the log has the reason.</summary>
    /// <param name="backend">cudnn or flash.</param>
    /// <param name="measured">The case; all of its sequences are alike.</param>
    public double? Time(string backend, PrefillCase measured) =>
        Ask(
            measured.Name,
            new JsonObject
            {
                ["backend"] = backend,
                ["dtype"] = Name(measured.Dtype),
                ["batch"] = measured.Lengths.Length,
                ["qoLen"] = measured.QueryTokens[0],
                ["kvLen"] = measured.Lengths[0],
                ["heads"] = measured.Heads,
                ["kvHeads"] = measured.KvHeads,
                ["headDim"] = measured.HeadDim,
                ["valueDim"] = measured.ValueDim,
                ["causal"] = measured.IsCausal,
            }
        );

    /// <summary>TFLOP/s of the product of two square matrices of BFloat16.</summary>
    public double? MatmulTflops(int size) =>
        2.0 * size * size * size / Ask($"matmul {size}", new JsonObject { ["matmul"] = size, ["dtype"] = Name(DType.BFloat16) }) / 1e6;

    /// <summary>Ends the script.</summary>
    public void Dispose()
    {
        try
        {
            _process.StandardInput.Close();
        }
        catch (IOException)
        {
            // It has ended already, with a request of ours unread.
        }

        _process.WaitForExit();
        _process.Dispose();
    }

    private double? Ask(string what, JsonObject request)
    {
        JsonNode answer = JsonNode.Parse(Exchange(request.ToJsonString()) ?? """{"error": "the script has ended"}""")!;
        if (answer["us"] is { } us)
        {
            return (double)us;
        }

        string reason = $"no peer for {what}: {answer["error"]}";
        if (_told.Add(reason))
        {
            _log.WriteLine(reason);
        }

        return null;
    }

    private string? Exchange(string request)
    {
        try
        {
            _process.StandardInput.WriteLine(request);
            return _process.StandardOutput.ReadLine();
        }
        catch (IOException)
        {
            // Nobody reads the other end of the pipe any more.
            return null;
        }
    }

    private static string Name(DType dtype) => dtype == DType.Float16 ? "float16" : "bfloat16";
}
