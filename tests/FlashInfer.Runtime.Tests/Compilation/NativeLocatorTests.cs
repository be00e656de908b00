using System.Runtime.InteropServices;
using FlashInfer.Cuda;

namespace FlashInfer.Runtime.Tests.Compilation;

public sealed class NativeLocatorTests
{
    [Fact]
    public void The_order_is_toolkit_then_loader_path_then_conda_then_pip_then_the_loader_itself()
    {
        string[] folders =
        [
            "/toolkit/lib64",
            "/home-toolkit/lib64",
            "/usr/local/cuda/lib64",
            "/usr/local/cuda-13.0/lib64",
            "/usr/local/cuda-12.10/lib64",
            "/usr/local/cuda-12.9/targets/x86_64-linux/lib",
            "/first",
            "/second",
            "/usr/lib/x86_64-linux-gnu",
            "/usr/local/lib",
            "/conda/lib",
            "/venv/lib/python3.12/site-packages/nvidia/cu13/lib",
            "/venv/lib/python3.12/site-packages/nvidia/cuda_nvrtc/lib",
            "/conda/lib/python3.11/site-packages/nvidia/cuda_nvrtc/lib",
            "/home/user/.local/lib/python3.10/site-packages/nvidia/cuda_nvrtc/lib",
            "/usr/local/lib/python3.11/dist-packages/nvidia/cuda_nvrtc/lib",
        ];
        FakeHost host = Linux()
            .Set("CUDA_PATH", "/toolkit")
            .Set("CUDA_HOME", "/home-toolkit/")
            .Set("LD_LIBRARY_PATH", "/first::/second")
            .Set("CONDA_PREFIX", "/conda")
            .Set("VIRTUAL_ENV", "/venv");
        foreach (string folder in folders)
        {
            host.Add($"{folder}/libnvrtc.so.12", $"{folder}/libnvrtc-builtins.so.12.4");
        }

        string[] found = [.. Find(host, out _).Select(candidate => candidate.Path)];

        Assert.Equal(folders.Select(folder => $"{folder}/libnvrtc.so.12"), found.Take(folders.Length));
        Assert.Equal(["libnvrtc.so.19", "libnvrtc.so.18"], found.Skip(folders.Length).Take(2));
        Assert.Equal("libnvrtc.so.12", found[^1]);
    }

    [Fact]
    public void An_override_is_the_only_place()
    {
        FakeHost host = Complete("/usr/local/cuda/lib64").Add("/mine/lib/libnvrtc.so.12", "/mine/lib/libnvrtc-builtins.so.12.8");
        host.Set("FLASHINFER_NVRTC", "/mine");

        NvrtcCandidate candidate = Assert.Single(Find(host, out _));

        Assert.Equal("/mine/lib/libnvrtc.so.12", candidate.Path);
        Assert.Equal(new Version(12, 8), candidate.Version);
    }

    [Fact]
    public void An_override_may_name_the_file_itself()
    {
        FakeHost host = Complete("/mine");

        NvrtcCandidate candidate = Assert.Single(NativeLocator.FindNvrtc(host, "/mine/libnvrtc.so.12.4.127", []));

        Assert.Equal(("/mine/libnvrtc.so.12.4.127", "/mine/libnvrtc-builtins.so.12.4"), (candidate.Path, candidate.Builtins));
    }

    [Fact]
    public void The_option_goes_before_the_variable()
    {
        FakeHost host = Complete("/option", "/variable").Set("FLASHINFER_NVRTC", "/variable");

        Assert.StartsWith("/option/", Assert.Single(NativeLocator.FindNvrtc(host, "/option", [])).Path, StringComparison.Ordinal);
    }

    [Fact]
    public void A_wrong_override_is_not_passed_over()
    {
        FakeHost host = Complete("/usr/local/cuda/lib64").Set("FLASHINFER_NVRTC", "/gone");

        Assert.Empty(Find(host, out List<NativeSearchStep> trace));
        Assert.Equal([new NativeSearchStep("/gone", "no such file or folder")], trace);
    }

    [Fact]
    public void The_newest_version_of_a_folder_comes_first()
    {
        FakeHost host = Complete("/all").Add("/all/libnvrtc.so.13", "/all/libnvrtc-builtins.so.13.0", "/all/libnvrtc-builtins.so.13.1");

        Version[] versions = [.. NativeLocator.FindNvrtc(host, "/all", []).Select(candidate => candidate.Version!)];

        Assert.Equal([new Version(13, 1), new Version(12, 4)], versions);
    }

    [Fact]
    public void Builtins_of_another_minor_do_not_do()
    {
        FakeHost host = Linux().Link("/a/libnvrtc.so.12", "/a/libnvrtc.so.12.6.20").Add("/a/libnvrtc-builtins.so.12.4");

        List<NativeSearchStep> trace = [];

        Assert.Empty(NativeLocator.FindNvrtc(host, "/a", trace));
        Assert.Equal([new NativeSearchStep("/a/libnvrtc.so.12", "libnvrtc-builtins.so.12.6 is not beside it")], trace);
    }

    [Fact]
    public void Builtins_are_also_looked_for_beside_the_file_that_a_link_ends_at()
    {
        FakeHost host = Linux().Link("/links/libnvrtc.so.12", "/real/libnvrtc.so.12.4.127").Add("/real/libnvrtc-builtins.so.12.4");

        Assert.Equal("/real/libnvrtc-builtins.so.12.4", Assert.Single(NativeLocator.FindNvrtc(host, "/links", [])).Builtins);
    }

    [Fact]
    public void The_identity_is_that_of_the_real_file()
    {
        FakeHost host = Complete("/a");

        NvrtcCandidate byLink = Assert.Single(NativeLocator.FindNvrtc(host, "/a/libnvrtc.so.12", []));
        NvrtcCandidate byFile = Assert.Single(NativeLocator.FindNvrtc(host, "/a/libnvrtc.so.12.4.127", []));

        Assert.Equal("libnvrtc.so.12.4.127|23|7", byLink.Identity);
        Assert.Equal(byLink.Identity, byFile.Identity);
    }

    [Fact]
    public void The_trace_has_every_place_and_the_reason()
    {
        FakeHost host = Linux().Set("CUDA_PATH", "/toolkit").Add("/toolkit/lib64/libcudart.so.12", "/usr/lib64/libnvrtc.so.11.2");

        _ = Find(host, out List<NativeSearchStep> trace).Count();

        Assert.Contains(new NativeSearchStep("/toolkit/lib64", "no libnvrtc.so.12 or newer"), trace);
        Assert.Contains(new NativeSearchStep("/toolkit/lib", "no such folder"), trace);
        Assert.Contains(new NativeSearchStep("$CUDA_HOME", "not set"), trace);
        Assert.Contains(new NativeSearchStep("/usr/lib64", "no libnvrtc.so.12 or newer"), trace);
        Assert.Contains(new NativeSearchStep("$CONDA_PREFIX", "not set"), trace);
        Assert.Contains(new NativeSearchStep("$VIRTUAL_ENV", "not set"), trace);
    }

    [Fact]
    public void Nothing_behind_the_first_find_is_looked_at()
    {
        FakeHost host = Complete("/toolkit/lib64", "/usr/lib64").Set("CUDA_PATH", "/toolkit");

        _ = Find(host, out List<NativeSearchStep> trace).First();

        Assert.Equal([new NativeSearchStep("/toolkit/lib64/libnvrtc.so.12", "NVRTC 12.4 with its builtins")], trace);
    }

    [Fact]
    public void Windows_has_its_own_places_and_names()
    {
        string[] folders =
        [
            @"D:\cuda\bin\x64",
            @"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v13.0\bin\x64",
            @"C:\Program Files\NVIDIA GPU Computing Toolkit\CUDA\v12.4\bin",
            @"C:\on path",
            @"C:\conda\Library\bin",
            @"C:\venv\Lib\site-packages\nvidia\cu13\bin\x86_64",
            @"C:\venv\Lib\site-packages\nvidia\cuda_nvrtc\bin",
            @"C:\local\Programs\Python\Python312\Lib\site-packages\nvidia\cuda_nvrtc\bin",
        ];
        FakeHost host = new FakeHost(isWindows: true)
            .Set("CUDA_PATH", @"D:\cuda")
            .Set("ProgramFiles", @"C:\Program Files")
            .Set("PATH", "\"C:\\on path\";C:\\empty")
            .Set("CONDA_PREFIX", @"C:\conda")
            .Set("VIRTUAL_ENV", @"C:\venv")
            .Set("LOCALAPPDATA", @"C:\local");
        foreach (string folder in folders)
        {
            host.Add($@"{folder}\nvrtc64_120_0.dll", $@"{folder}\nvrtc-builtins64_1210.dll", $@"{folder}\nvrtc-builtins64_129.dll");
        }

        NvrtcCandidate[] found = [.. Find(host, out _)];

        Assert.Equal(folders.Select(folder => $@"{folder}\nvrtc64_120_0.dll"), found.Take(folders.Length).Select(c => c.Path));
        Assert.Equal($@"{folders[0]}\nvrtc-builtins64_1210.dll", found[0].Builtins);
        Assert.Equal("nvrtc64_120_0.dll", found[^1].Path);
    }

    [Fact]
    public void Arm64_has_its_own_folders()
    {
        FakeHost host = new FakeHost(architecture: Architecture.Arm64).Add(
            "/usr/local/cuda/targets/sbsa-linux/lib/libnvrtc.so.13",
            "/usr/local/cuda/targets/sbsa-linux/lib/libnvrtc-builtins.so.13.0"
        );

        Assert.Equal("/usr/local/cuda/targets/sbsa-linux/lib/libnvrtc.so.13", Find(host, out _).First().Path);
    }

    [Fact]
    public void The_driver_is_asked_of_the_loader_first()
    {
        Assert.Equal("libcuda.so.1", NativeLocator.DriverPaths(Linux())[0]);
        Assert.Contains("/usr/lib/wsl/lib/libcuda.so.1", NativeLocator.DriverPaths(Linux()));
        Assert.Contains("/usr/local/nvidia/lib64/libcuda.so.1", NativeLocator.DriverPaths(Linux()));
        Assert.Equal(["nvcuda.dll"], NativeLocator.DriverPaths(new FakeHost(isWindows: true)));
    }

    [Fact]
    public void Looking_for_the_driver_leaves_a_trace_and_never_throws()
    {
        bool found = NativeLibraries.TryLoadDriver(out IReadOnlyList<NativeSearchStep> trace);

        Assert.NotEmpty(trace);
        Assert.Equal(found, trace[^1].Outcome is "loaded" or "loaded already");
        Assert.All(trace, step => Assert.DoesNotContain('\n', step.Outcome));
    }

    private static IEnumerable<NvrtcCandidate> Find(FakeHost host, out List<NativeSearchStep> trace) =>
        NativeLocator.FindNvrtc(host, null, trace = []);

    private static FakeHost Linux() => new FakeHost().Set("HOME", "/home/user");

    /// <summary>A machine with NVRTC 12.4 as packages install it in each folder.</summary>
    private static FakeHost Complete(params ReadOnlySpan<string> folders)
    {
        FakeHost host = Linux();
        foreach (string folder in folders)
        {
            host.Link($"{folder}/libnvrtc.so.12", $"{folder}/libnvrtc.so.12.4.127").Add($"{folder}/libnvrtc-builtins.so.12.4");
        }

        return host;
    }
}
