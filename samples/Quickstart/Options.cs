using System.Globalization;

namespace Quickstart;

internal enum DeviceChoice
{
    Best,
    Cpu,
    Gpu,
}

/// <summary>The command line.</summary>
internal sealed record Options(DeviceChoice Device, int Seed, bool Time)
{
    private const string Usage = """
        Usage: Quickstart [--cpu | --gpu] [--seed N] [--time]

          --cpu      run on the CPU
          --gpu      run on the GPU or not at all; without either, the GPU is taken when it can be used
          --seed N   seed of the random inputs, 0 to 2147483647; a fresh one, which is printed, when not given
          --time     print the milliseconds from process start to the result

        Exit codes: 0 the result is right, 1 it is not or the command line was wrong, 2 the device can't be used.
        """;

    /// <summary>Reads the command line; when there is nothing to run, says why and with what code to exit.</summary>
    public static bool TryParse(string[] args, out Options options, out int exitCode)
    {
        options = new Options(DeviceChoice.Best, Random.Shared.Next(), Time: false);
        exitCode = 1;
        for (int i = 0; i < args.Length; i++)
        {
            switch (args[i])
            {
                case "--help" or "-h":
                    Console.WriteLine(Usage);
                    exitCode = 0;
                    return false;
                case "--cpu" when options.Device != DeviceChoice.Gpu:
                    options = options with { Device = DeviceChoice.Cpu };
                    break;
                case "--gpu" when options.Device != DeviceChoice.Cpu:
                    options = options with { Device = DeviceChoice.Gpu };
                    break;
                case "--cpu" or "--gpu":
                    return Wrong("--cpu and --gpu exclude each other; give one of them, or neither.");
                case "--time":
                    options = options with { Time = true };
                    break;
                case "--seed" when i + 1 == args.Length:
                    return Wrong("--seed needs a number after it.");
                case "--seed":
                    if (!int.TryParse(args[++i], NumberStyles.None, CultureInfo.InvariantCulture, out int seed))
                    {
                        return Wrong($"--seed is '{args[i]}'; expected a whole number from 0 to {int.MaxValue}.");
                    }

                    options = options with { Seed = seed };
                    break;
                default:
                    return Wrong($"'{args[i]}' is no option of this program.");
            }
        }

        return true;
    }

    private static bool Wrong(string message)
    {
        Console.Error.WriteLine(message);
        Console.Error.WriteLine();
        Console.Error.WriteLine(Usage);
        return false;
    }
}
