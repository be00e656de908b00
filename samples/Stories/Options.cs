using System.Globalization;
using FlashInfer;

namespace Stories;

internal enum DeviceChoice
{
    Best,
    Cpu,
    Gpu,
}

/// <summary>The command line.</summary>
internal sealed record Options(string Model, string Prompt, float Temperature, int Tokens, ulong Seed, DType Dtype, DeviceChoice Device)
{
    private const string Usage = """
        Usage: Stories --model DIR [options]

          --model DIR        folder with a llama2.c checkpoint and its tokenizer (tok*.bin)
          --prompt TEXT      how the story begins; empty when not given
          --temperature T    0 always takes the likeliest token (the default); higher is more random
          --tokens N         new tokens at most, 1 or more; 256 when not given. The checkpoint's context is the limit
          --seed N           seed of the sampling; a fresh one, which is printed, when not given
          --dtype f16|bf16   element type of queries, keys and values; f16 when not given
          --cpu              attention on the CPU
          --gpu              attention on the GPU or not at all; without either, the GPU is taken when it can be used

        The story goes to the standard output, everything else to the standard error.
        Exit codes: 0 done, 1 the command line or the model is wrong, 2 the device can't be used.
        """;

    /// <summary>Reads the command line; when there is nothing to run, says why and with what code to exit.</summary>
    public static bool TryParse(string[] args, out Options options, out int exitCode)
    {
        options = new Options("", "", 0, 256, (ulong)Random.Shared.NextInt64(1, long.MaxValue), DType.Float16, DeviceChoice.Best);
        exitCode = 1;
        for (int i = 0; i < args.Length; i++)
        {
            string name = args[i];
            switch (name)
            {
                case "--help" or "-h":
                    Console.WriteLine(Usage);
                    exitCode = 0;
                    return false;
                case "--cpu" when options.Device != DeviceChoice.Gpu:
                    options = options with { Device = DeviceChoice.Cpu };
                    continue;
                case "--gpu" when options.Device != DeviceChoice.Cpu:
                    options = options with { Device = DeviceChoice.Gpu };
                    continue;
                case "--cpu" or "--gpu":
                    return Wrong("--cpu and --gpu exclude each other; give one of them, or neither.");
                case not ("--model" or "--prompt" or "--temperature" or "--tokens" or "--seed" or "--dtype"):
                    return Wrong($"'{name}' is no option of this program.");
            }

            if (++i == args.Length)
            {
                return Wrong($"{name} needs a value after it.");
            }

            if (options.With(name, args[i], out string expected) is not { } changed)
            {
                return Wrong($"{name} is '{args[i]}'; expected {expected}.");
            }

            options = changed;
        }

        return options.Model.Length > 0 || Wrong("--model is missing.");
    }

    private Options? With(string name, string value, out string expected)
    {
        CultureInfo culture = CultureInfo.InvariantCulture;
        switch (name)
        {
            case "--model":
                expected = "a folder";
                return value.Length > 0 ? this with { Model = value } : null;
            case "--prompt":
                expected = "text";
                return this with { Prompt = value };
            case "--temperature":
                expected = "a number from 0 to 100, such as 0.8";
                bool isNumber = float.TryParse(value, NumberStyles.AllowDecimalPoint, culture, out float temperature);
                return isNumber && temperature is >= 0 and <= 100 ? this with { Temperature = temperature } : null;
            case "--tokens":
                expected = $"a whole number from 1 to {int.MaxValue}";
                return int.TryParse(value, NumberStyles.None, culture, out int tokens) && tokens > 0 ? this with { Tokens = tokens } : null;
            case "--seed":
                expected = $"a whole number from 0 to {ulong.MaxValue}";
                return ulong.TryParse(value, NumberStyles.None, culture, out ulong seed) ? this with { Seed = seed } : null;
            default:
                expected = "f16 or bf16";
                return value switch
                {
                    "f16" => this with { Dtype = DType.Float16 },
                    "bf16" => this with { Dtype = DType.BFloat16 },
                    _ => null,
                };
        }
    }

    private static bool Wrong(string message)
    {
        Console.Error.WriteLine(message);
        Console.Error.WriteLine();
        Console.Error.WriteLine(Usage);
        return false;
    }
}
