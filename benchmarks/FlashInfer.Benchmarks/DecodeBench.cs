namespace FlashInfer.Benchmarks;

/// <summary>Batch decode by graph replay, one launch per layer, layers cycling through more memory than the L2 holds.</summary>
internal static class DecodeBench
{
    public static IEnumerable<Row> Run(Device device, Gpu gpu, Ceilings ceilings)
    {
        using Device? portable = gpu.OpenPortable();
        foreach (DecodeCase measured in DecodeCases.All)
        {
            if (WhyNot(measured, hasPortable: portable is not null) is { } reason)
            {
                Console.WriteLine($"decode   {measured.Name}: left out, {reason}");
                continue;
            }

            using DecodeRun run = new(measured.IsPortable ? portable! : device, gpu, measured);
            yield return run.Measure(ceilings);
        }
    }

    private static string? WhyNot(DecodeCase measured, bool hasPortable)
    {
        AttentionShape shape = new(
            measured.Heads,
            measured.KvHeads,
            measured.HeadDim,
            measured.PageSize,
            measured.Dtype,
            measured.KvDtype ?? measured.Dtype,
            measured.KvLayout
        );
        return measured.IsPortable && !hasPortable
            ? "this device has only the portable kernels"
            : AttentionRules.All.FirstOrDefault(rule => !rule.IsMet(shape))?.Message(shape);
    }
}
