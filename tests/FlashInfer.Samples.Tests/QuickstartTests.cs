using System.Globalization;
using System.Text.RegularExpressions;
using Quickstart;

namespace FlashInfer.Tests.Samples;

public sealed partial class QuickstartTests
{
    [Fact]
    public void It_prints_shape_device_reason_plan_and_an_error_within_bounds()
    {
        SampleResult result = SampleProcess.Run("Quickstart", "--cpu");

        Assert.Equal("", result.Errors);
        Assert.Equal(0, result.ExitCode);
        Assert.Equal("[1, 32, 128]", Field(result, "output"));
        Assert.StartsWith("CPU", Field(result, "device"), StringComparison.Ordinal);
        Assert.Equal("the CPU was asked for", Field(result, "because"));
        Assert.Contains("50 tokens", Field(result, "plan"), StringComparison.Ordinal);
        double error = double.Parse(Field(result, "error").Split(' ')[0], CultureInfo.InvariantCulture);
        Assert.InRange(error, 1e-4, 4e-3);
        Assert.True(int.TryParse(Field(result, "seed"), out _));
        Assert.DoesNotContain("time ", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void Without_arguments_it_takes_a_device_and_says_why()
    {
        SampleResult result = SampleProcess.Run("Quickstart");

        Assert.Equal(0, result.ExitCode);
        Assert.NotEmpty(Field(result, "device"));
        Assert.NotEmpty(Field(result, "because"));
    }

    [Fact]
    public void A_seed_repeats_its_numbers_and_seeds_differ()
    {
        string first = SampleProcess.Run("Quickstart", "--cpu", "--seed", "1").Output;

        Assert.Contains("seed     1\n", first.ReplaceLineEndings("\n"), StringComparison.Ordinal);
        Assert.Equal(first, SampleProcess.Run("Quickstart", "--seed", "1", "--cpu").Output);
        Assert.NotEqual(Seedless(first), Seedless(SampleProcess.Run("Quickstart", "--cpu", "--seed", "2").Output));

        static string Seedless(string output) => output[..output.IndexOf("seed ", StringComparison.Ordinal)];
    }

    [Fact]
    public void Time_to_the_result_is_printed_when_asked_for()
    {
        SampleResult result = SampleProcess.Run("Quickstart", "--cpu", "--time");

        Assert.Equal(0, result.ExitCode);
        double milliseconds = double.Parse(Field(result, "time").Split(' ')[0], CultureInfo.InvariantCulture);
        Assert.InRange(milliseconds, 1, 60_000);
    }

    [SkippableFact]
    public void Insisting_on_a_missing_gpu_explains_itself_and_exits_with_2()
    {
        Skip.If(Gpu.IsPresent, "This machine may have a GPU.");
        SampleResult result = SampleProcess.Run("Quickstart", "--gpu");

        Assert.Equal(2, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.Contains("CUDA", result.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("   at ", result.Errors, StringComparison.Ordinal);
        Assert.DoesNotContain("\n\n", result.Errors.ReplaceLineEndings("\n").TrimEnd(), StringComparison.Ordinal);
    }

    [Theory]
    [InlineData("'--fast' is no option", "--fast")]
    [InlineData("'x' is no option", "--cpu", "x")]
    [InlineData("exclude each other", "--cpu", "--gpu")]
    [InlineData("exclude each other", "--gpu", "--cpu")]
    [InlineData("--seed needs a number", "--seed")]
    [InlineData("--seed is '-1'; expected a whole number from 0 to 2147483647", "--seed", "-1")]
    [InlineData("--seed is '2147483648'", "--seed", "2147483648")]
    public void A_wrong_command_line_is_answered_with_the_reason_and_the_usage(string reason, params string[] arguments)
    {
        SampleResult result = SampleProcess.Run("Quickstart", arguments);

        Assert.Equal(1, result.ExitCode);
        Assert.Equal("", result.Output);
        Assert.Contains(reason, result.Errors, StringComparison.Ordinal);
        Assert.Contains("Usage: Quickstart", result.Errors, StringComparison.Ordinal);
    }

    [Fact]
    public void Help_is_no_error()
    {
        SampleResult result = SampleProcess.Run("Quickstart", "--help");

        Assert.Equal(0, result.ExitCode);
        Assert.StartsWith("Usage: Quickstart", result.Output, StringComparison.Ordinal);
    }

    [Fact]
    public void The_reference_weighs_values_by_the_softmax_of_the_scaled_dot_products()
    {
        // Two tokens. All elements of the query are 1, of the first key 1/16, of the second 0: the logits are 8 / sqrt(128) and 0.
        const int Row = QuickstartAttention.KvHeads * QuickstartAttention.HeadDim;
        BFloat16[] query = Filled(Row, 1);
        BFloat16[] keys = [.. Filled(Row, 1f / 16), .. Filled(Row, 0)];
        BFloat16[] values = [.. Filled(Row, 1), .. Filled(Row, 0)];
        double exact = 1 / (1 + Math.Exp(-8 / Math.Sqrt(128)));
        BFloat16 rounded = (BFloat16)exact;

        double error = Reference.RelativeError(Filled(Row, rounded), query, keys, values);

        Assert.Equal(Math.Abs(rounded - exact) / exact, error, 12);
        Assert.Equal(1, Reference.RelativeError(new BFloat16[Row], query, keys, values), 12);
        Assert.False(Reference.RelativeError(Filled(Row, float.NaN), query, keys, values) < Reference.Tolerance);
    }

    private static BFloat16[] Filled(int count, float value)
    {
        BFloat16[] numbers = new BFloat16[count];
        Array.Fill(numbers, (BFloat16)value);
        return numbers;
    }

    private static string Field(SampleResult result, string name)
    {
        Match line = Line().Matches(result.Output).Single(match => match.Groups["name"].Value == name);
        return line.Groups["value"].Value;
    }

    [GeneratedRegex(@"^(?<name>\w+) +(?<value>[^\r\n]+)", RegexOptions.Multiline)]
    private static partial Regex Line();
}
