using FlashInfer.Runtime.Tests.Compilation;

namespace FlashInfer.Tests.Tools;

public sealed class CacheCommandTests
{
    private const string Unit = "fi_append_bf16_h32_kv8_d128_p16";

    [SkippableFact]
    public void A_cache_is_listed_verified_and_cleared()
    {
        using TemporaryFolder cache = new();
        TestNvrtc.Compiler(cache.Path).Compile(new AttentionSpec(32, 8, 128, 16, DType.BFloat16).AppendUnit, "sm_80");
        string entry = Assert.Single(cache.Files);
        File.WriteAllText(cache.File("mine.cubin"), "somebody else's");

        ToolResult list = Run("list");
        Assert.Equal(0, list.ExitCode);
        Assert.Matches($@"{Unit} +sm_80 +NVRTC 1\S+ +[\d.]+ KB +whole\n", list.Output);
        Assert.Contains(": 1 kernel, ", list.Output, StringComparison.Ordinal);

        Assert.Equal(0, Run("verify").ExitCode);
        File.WriteAllBytes(cache.File(entry), File.ReadAllBytes(cache.File(entry))[..^1]);
        ToolResult damaged = Run("verify");
        Assert.Equal(1, damaged.ExitCode);
        Assert.Matches($@"{entry} .* damaged\n", damaged.Output);
        Assert.False(Run("list", "--json").Json.GetProperty("entries")[0].GetProperty("isWhole").GetBoolean());

        ToolResult clear = Run("clear", "--json");
        Assert.Equal((0, 1), (clear.ExitCode, clear.Json.GetProperty("removed").GetInt32()));
        Assert.Equal(["mine.cubin"], cache.Files);

        ToolResult Run(params string[] arguments) => ToolProcess.RunBare(["cache", .. arguments, "--cache-dir", cache.Path]);
    }

    [Fact]
    public void A_folder_that_is_not_there_is_an_empty_cache()
    {
        using TemporaryFolder folder = new();

        ToolResult result = ToolProcess.RunBare("cache", "list", "--cache-dir", folder.File("none"));

        Assert.Equal((0, $"{folder.File("none")}: 0 kernels, 0 B, all whole\n"), (result.ExitCode, result.Output));
        Assert.Empty(folder.Files);
    }
}
