// Serves a llama2.c checkpoint: the model on the CPU, its attention through the SDK on the GPU or the CPU.

using System.Diagnostics;
using System.Globalization;
using FlashInfer;
using FlashInfer.Compilation;
using Stories;

if (!Options.TryParse(args, out Options options, out int exitCode))
{
    return exitCode;
}

try
{
    (string checkpointFile, string tokenizerFile) = ModelFolder.Find(options.Model);
    Checkpoint model = Checkpoint.Load(checkpointFile);
    Tokenizer tokenizer = Tokenizer.Load(tokenizerFile, model.VocabularySize);
    int[] prompt = tokenizer.Encode(options.Prompt);
    if (prompt.Length > model.MaxTokens)
    {
        throw new InvalidDataException(
            $"The prompt has {prompt.Length} tokens; {Path.GetFileName(checkpointFile)} was trained for at most {model.MaxTokens}."
        );
    }

    using Device device = options.Device switch
    {
        DeviceChoice.Cpu => Device.OpenCpu(),
        DeviceChoice.Gpu => Device.OpenCuda(0, WithProgress()),
        _ => Device.Open(WithProgress()),
    };
    using Transformer transformer = new(model, device, options.Dtype);
    Sampler sampler = new(options.Temperature, options.Seed);
    using Stream text = Console.OpenStandardOutput();

    for (int i = 1; i < prompt.Length; i++)
    {
        Write(text, tokenizer.Decode(prompt[i - 1], prompt[i]));
    }

    // The prompt goes in at once; its last token, like every token after it, is answered by the sampler.
    int count = (int)Math.Min(options.Tokens, model.MaxTokens - prompt.Length + 1L);
    int token = prompt[^1];
    int timed = 0;
    Stopwatch clock = new();
    for (int n = 0; n < count; n++)
    {
        int next = sampler.Next(n == 0 ? transformer.Forward(prompt) : transformer.Forward(token));
        if (Tokenizer.IsEnd(next))
        {
            break;
        }

        Write(text, tokenizer.Decode(token, next));
        token = next;

        // The first step makes kernels and buffers warm; it is not what serving is like.
        if (clock.IsRunning)
        {
            timed++;
        }
        else
        {
            clock.Start();
        }
    }

    clock.Stop();
    text.Write("\n"u8);
    if (timed > 0)
    {
        Report($"{timed / clock.Elapsed.TotalSeconds:F1} tokens per second, attention in {options.Dtype}");
    }

    Report($"{device.Name}: {device.Reason}");
    Report($"seed {options.Seed}");
    return 0;
}
catch (Exception failure) when (failure is IOException or InvalidDataException or UnauthorizedAccessException)
{
    Console.Error.WriteLine(failure.Message);
    return 1;
}
catch (FlashInferException failure)
{
    Console.Error.WriteLine(failure.Message);
    return 2;
}

// Bytes, not characters: a character may be spread over several tokens. Control characters would garble the terminal.
static void Write(Stream text, ReadOnlySpan<byte> piece)
{
    if (piece.Length != 1 || piece[0] >= ' ' || piece[0] is (byte)'\n' or (byte)'\t')
    {
        text.Write(piece);
        text.Flush();
    }
}

static DeviceOptions WithProgress() => new() { Compiler = new KernelCompilerOptions { Report = Console.Error.WriteLine } };

static void Report(FormattableString line) => Console.Error.WriteLine(line.ToString(CultureInfo.InvariantCulture));
