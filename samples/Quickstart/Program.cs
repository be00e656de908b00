// Attention over a paged KV cache, from one attribute to a checked result.

using System.Diagnostics;
using System.Globalization;
using FlashInfer;
using FlashInfer.Compilation;
using Quickstart;

const int Tokens = 50;

if (!Options.TryParse(args, out Options options, out int exitCode))
{
    return exitCode;
}

try
{
    using Device device = options.Device switch
    {
        DeviceChoice.Cpu => Device.OpenCpu(),
        DeviceChoice.Gpu => Device.OpenCuda(0, WithProgress()),
        _ => Device.Open(WithProgress()),
    };

    // Room for 2,048 tokens. The first cache and wrapper of a configuration get its kernels ready: from disk, or compiled in a moment.
    using QuickstartAttention.PagedKvCache cache = new(device, layers: 1, pages: 2048 / QuickstartAttention.PageSize);
    using QuickstartAttention.BatchDecodeWithPagedKvCache decode = new(cache);

    // In a real program the model computes these; Key and Value are types of their own and can't be mixed up.
    Random random = new(options.Seed);
    BFloat16[] keys = RandomNumbers(random, Tokens * QuickstartAttention.KvHeads * QuickstartAttention.HeadDim);
    BFloat16[] values = RandomNumbers(random, Tokens * QuickstartAttention.KvHeads * QuickstartAttention.HeadDim);
    using QuickstartAttention.Key key = QuickstartAttention.AllocateKey(device, Tokens);
    using QuickstartAttention.Value value = QuickstartAttention.AllocateValue(device, Tokens);
    key.CopyFrom(keys);
    value.CopyFrom(values);

    // Begin reserves pages, Append fills them, End commits.
    Sequence sequence = cache.NewSequence();
    cache.BeginForward(sequence, Tokens);
    cache.Append(layer: 0, sequence, key, value);
    cache.EndForward(sequence);

    // One query token, as in every step of generating text.
    BFloat16[] queries = RandomNumbers(random, QuickstartAttention.Heads * QuickstartAttention.HeadDim);
    using QuickstartAttention.Query query = QuickstartAttention.AllocateQuery(device, tokens: 1);
    using QuickstartAttention.Output output = QuickstartAttention.AllocateOutput(device, tokens: 1);
    query.CopyFrom(queries);

    decode.Plan([sequence]);
    decode.Run(layer: 0, query, output);
    BFloat16[] result = output.ToArray();
    TimeSpan untilResult = DateTime.Now - Process.GetCurrentProcess().StartTime;

    double error = Reference.RelativeError(result, queries, keys, values);
    bool good = error < Reference.Tolerance;
    Print($"output   {output.Shape}");
    Print($"device   {device.Name}");
    Print($"because  {device.Reason}");
    Print($"plan     {decode.Explain()}");
    Print($"error    {error:0.00E-0} relative to fp64, {(good ? "within" : "BEYOND")} {Reference.Tolerance:0E-0}");
    Print($"seed     {options.Seed}");
    if (options.Time)
    {
        Print($"time     {untilResult.TotalMilliseconds:F0} ms from process start to the result");
    }

    return good ? 0 : 1;
}
catch (FlashInferException failure)
{
    Console.Error.WriteLine(failure.Message);
    return 2;
}

static BFloat16[] RandomNumbers(Random random, int count)
{
    BFloat16[] numbers = new BFloat16[count];
    for (int i = 0; i < count; i++)
    {
        numbers[i] = (BFloat16)((2 * random.NextSingle()) - 1);
    }

    return numbers;
}

// A compile takes a moment, so it is shown; a kernel from the cache is not worth a line.
static DeviceOptions WithProgress() => new() { Compiler = new KernelCompilerOptions { Report = Console.Error.WriteLine } };

static void Print(FormattableString line) => Console.WriteLine(line.ToString(CultureInfo.InvariantCulture));

/// <summary>This line is the configuration: cache, wrappers, tensor types and CUDA kernels are generated from it.</summary>
[AttentionConfig(heads: 32, kvHeads: 32, headDim: 128, pageSize: 16, dtype: DType.BFloat16)]
public partial class QuickstartAttention;
