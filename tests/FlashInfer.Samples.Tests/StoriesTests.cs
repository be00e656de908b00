using System.Text;
using System.Text.RegularExpressions;

namespace FlashInfer.Tests.Samples;

public sealed class StoriesTests
{
    [SkippableTheory]
    [InlineData("f16")]
    [InlineData("bf16")]
    public void The_golden_story_comes_out_whole_on_the_cpu(string dtype)
    {
        SampleResult result = SampleProcess.Run(
            "Stories",
            ["--model", ModelData.Folder(), "--cpu", "--dtype", dtype, "--temperature", "0", "--tokens", "256"]
        );

        Assert.Equal(0, result.ExitCode);
        Assert.Equal(Encoding.UTF8.GetString(ModelData.Golden), result.Output);
        Assert.Matches(new Regex(@"^\d+\.\d tokens per second"), result.Errors);
        Assert.Contains("the CPU was asked for", result.Errors, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void The_golden_story_comes_out_whole_on_the_best_device()
    {
        SampleResult result = SampleProcess.Run("Stories", "--model", ModelData.Folder());

        Assert.Equal(0, result.ExitCode);
        Assert.Equal(Encoding.UTF8.GetString(ModelData.Golden), result.Output);
    }

    [SkippableFact]
    public void A_prompt_that_is_the_storys_beginning_is_continued_as_before()
    {
        const string Prompt = "Once upon a time, there was a little girl named Lily.";
        string golden = Encoding.UTF8.GetString(ModelData.Golden);

        SampleResult result = Tell("--prompt", Prompt, "--tokens", "100");

        // The model's own tokens for the beginning may be cut differently, so only what a reader sees is compared.
        Assert.Equal(0, result.ExitCode);
        Assert.StartsWith(Prompt, result.Output, StringComparison.Ordinal);
        Assert.StartsWith(result.Output.TrimEnd('\n'), golden, StringComparison.Ordinal);
        Assert.True(result.Output.Length > Prompt.Length + 50);
    }

    [SkippableFact]
    public void A_seed_repeats_its_story_and_another_tells_another()
    {
        string[] arguments = ["--temperature", "0.9", "--tokens", "60", "--prompt", "The dog", "--seed"];
        string story = Tell([.. arguments, "7"]).Output;

        Assert.StartsWith("The dog", story, StringComparison.Ordinal);
        Assert.Equal(story, Tell([.. arguments, "7"]).Output);
        Assert.NotEqual(story, Tell([.. arguments, "8"]).Output);
        Assert.Contains("seed 7", Tell([.. arguments, "7"]).Errors, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void The_story_ends_where_the_context_does()
    {
        SampleResult result = Tell("--tokens", "2147483647", "--temperature", "1", "--seed", "3");

        Assert.Equal(0, result.ExitCode);
        Assert.EndsWith("\n", result.Output, StringComparison.Ordinal);
    }

    [SkippableFact]
    public void A_prompt_beyond_the_context_is_refused()
    {
        SampleResult result = Tell("--prompt", string.Concat(Enumerable.Repeat("zebra ", 300)));

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.Matches(new Regex(@"^The prompt has \d+ tokens; stories260K\.bin was trained for at most 512\.\r?\n$"), result.Errors);
    }

    [SkippableFact]
    public void Insisting_on_a_missing_gpu_explains_itself_and_exits_with_2()
    {
        Skip.If(Gpu.IsPresent, "This machine may have a GPU.");
        SampleResult result = SampleProcess.Run("Stories", "--model", ModelData.Folder(), "--gpu");

        Assert.Equal(2, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.Contains("CUDA", result.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", result.Errors, StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("--model is missing")]
    [InlineData("--model needs a value", "--model")]
    [InlineData("--model is ''", "--model", "")]
    [InlineData("'story' is no option", "--model", "m", "story")]
    [InlineData("exclude each other", "--model", "m", "--gpu", "--cpu")]
    [InlineData("--temperature is '-1'; expected a number from 0 to 100", "--model", "m", "--temperature", "-1")]
    [InlineData("--temperature is 'NaN'", "--model", "m", "--temperature", "NaN")]
    [InlineData("--temperature is '0,8'", "--model", "m", "--temperature", "0,8")]
    [InlineData("--tokens is '0'; expected a whole number from 1", "--model", "m", "--tokens", "0")]
    [InlineData("--seed is '1.5'", "--model", "m", "--seed", "1.5")]
    [InlineData("--dtype is 'fp8'; expected f16 or bf16", "--model", "m", "--dtype", "fp8")]
    public void A_wrong_command_line_is_answered_with_the_reason_and_the_usage(string reason, params string[] arguments)
    {
        SampleResult result = SampleProcess.Run("Stories", arguments);

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.Contains(reason, result.Errors, StringComparison.Ordinal);
        Assert.Contains("Usage: Stories", result.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public void A_missing_model_folder_is_named()
    {
        SampleResult result = SampleProcess.Run("Stories", "--model", "no-such-folder");

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("The model folder 'no-such-folder' does not exist.", result.Errors.TrimEnd());
    }

    private static SampleResult Tell(params string[] arguments) =>
        SampleProcess.Run("Stories", ["--cpu", "--model", ModelData.Folder(), .. arguments]);
}
