using FlashInfer.Benchmarks;

namespace FlashInfer.Tests.Benchmarks;

/// <summary>The child process, with scripts of a shell in the place of PyTorch.</summary>
public sealed class TorchPeerTests : IDisposable
{
    private readonly string _script = Path.GetTempFileName();
    private readonly StringWriter _log = new();

    public void Dispose()
    {
        File.Delete(_script);
        _log.Dispose();
    }

    [Fact]
    public void Without_an_interpreter_there_is_no_peer()
    {
        Assert.Null(TorchPeer.Start("no-such-python", _script, _log));
        Assert.StartsWith("no peer: 'no-such-python' with PyTorch and a GPU was wanted, but ", _log.ToString(), StringComparison.Ordinal);
    }

    [SkippableFact]
    public void Without_PyTorch_there_is_no_peer()
    {
        Skip.If(OperatingSystem.IsWindows(), "The script is one of a shell.");
        Assert.Null(Start("echo 'Traceback' >&2; echo \"No module named 'torch'\" >&2; exit 1"));
        Assert.Equal(
            "no peer: 'sh' with PyTorch and a GPU was wanted, but No module named 'torch'\n",
            _log.ToString().ReplaceLineEndings("\n")
        );
    }

    [SkippableFact]
    public void Requests_and_answers_are_lines()
    {
        Skip.If(OperatingSystem.IsWindows(), "The script is one of a shell.");
        string requests = _script + ".requests";
        using (
            TorchPeer? peer = Start(
                $$"""
                echo '{"torch": "2.11.0", "cudnn": "9.19"}'
                while read line; do echo "$line" >> '{{requests}}'; echo '{"us": 1000.5}'; done
                """
            )
        )
        {
            Assert.Equal("cuDNN 9.19", peer!.CuDnn);
            Assert.Equal("torch 2.11.0 flash", peer.Flash);
            Assert.Equal(1000.5, peer.Time("cudnn", PrefillCase.Square(32, 8, 4, 512)));
            Assert.Equal(2 * Math.Pow(1000, 3) / 1000.5 / 1e6, peer.MatmulTflops(1000)!.Value, 9);
        }

        Assert.Equal(
            [
                """{"backend":"cudnn","dtype":"bfloat16","batch":4,"qoLen":512,"kvLen":512,"heads":32,"kvHeads":8,"headDim":128,"valueDim":128,"causal":true}""",
                """{"matmul":1000,"dtype":"bfloat16"}""",
            ],
            File.ReadAllLines(requests)
        );
        File.Delete(requests);
        Assert.Empty(_log.ToString());
    }

    [SkippableFact]
    public void What_cannot_be_timed_is_told_once_and_the_benchmark_goes_on()
    {
        Skip.If(OperatingSystem.IsWindows(), "The script is one of a shell.");
        using TorchPeer? peer = Start("echo '{}'; read a; echo '{\"error\": \"no kernel\"}'; read b; echo '{\"error\": \"no kernel\"}'");
        PrefillCase measured = PrefillCase.Square(32, 8, 4, 512);
        Assert.Null(peer!.Time("cudnn", measured));
        Assert.Null(peer.Time("cudnn", measured));
        Assert.Null(peer.Time("cudnn", measured));
        Assert.Equal(
            $"no peer for {measured.Name}: no kernel\nno peer for {measured.Name}: the script has ended\n",
            _log.ToString().ReplaceLineEndings("\n")
        );
    }

    [SkippableFact]
    public void The_script_is_beside_the_benchmark_and_says_what_it_misses()
    {
        Assert.True(File.Exists(TorchPeer.Script), TorchPeer.Script);
        using TorchPeer? peer = TorchPeer.Start("python3", TorchPeer.Script, _log);
        Skip.If(peer is not null, "This machine has PyTorch and a GPU.");
        Assert.Matches(
            "No module named 'torch'|PyTorch finds no GPU|'python3' with PyTorch and a GPU was wanted, but .*start",
            _log.ToString()
        );
    }

    private TorchPeer? Start(string script)
    {
        File.WriteAllText(_script, script);
        return TorchPeer.Start("sh", _script, _log);
    }
}
