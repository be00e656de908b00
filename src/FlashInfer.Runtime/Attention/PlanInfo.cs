using System.Globalization;

namespace FlashInfer;

/// <summary>What a plan looks like.</summary>
/// <param name="Kernel">The kernel that runs; where several do, one after the other, all. Other numbers are then sums, but for <paramref name="Blocks"/> to <paramref name="ChunkTokens"/> and <paramref name="Imbalance"/>, which are the largest.</param>
/// <param name="Sequences">Sequences of the batch.</param>
/// <param name="Rows">Query tokens of all sequences: rows of query and output.</param>
/// <param name="Tokens">Tokens of all sequences that have query tokens.</param>
/// <param name="Items">Chunks that the sequences were cut into.</param>
/// <param name="Units">Pieces of work on the device: items times KV heads times tiles of query tokens and heads.</param>
/// <param name="Blocks">Blocks that share them.</param>
/// <param name="Cluster">Blocks that take each unit together; 1 when every block works alone.</param>
/// <param name="Teams">Teams (warps) of a block that take units of their own; 1 when a block's warps share each unit.</param>
/// <param name="ChunkTokens">No item is longer than this.</param>
/// <param name="SplitSequences">Sequences cut into more than one item, whose parts are merged.</param>
/// <param name="Imbalance">Tokens of the busiest block, cluster or team over the mean, 1 at best.</param>
/// <param name="Determinism">On what the bits of a sequence's results may depend.</param>
public readonly record struct PlanInfo(
    string Kernel,
    int Sequences,
    int Rows,
    long Tokens,
    int Items,
    long Units,
    int Blocks,
    int Cluster,
    int Teams,
    int ChunkTokens,
    int SplitSequences,
    double Imbalance,
    Determinism Determinism
)
{
    /// <summary>Tokens that are prepared once, ahead of the kernel, which else would gather, widen or turn them for each tile that walks them; 0 when none are.</summary>
    public long StagedTokens { get; init; }

    /// <summary>Sequences whose tokens those are; a kernel of its own attends to the others. 0 when none are staged.</summary>
    public int StagedSequences { get; init; }

    /// <summary>The plan in words.</summary>
    public override string ToString()
    {
        string rows = Rows == Sequences ? "" : $" and {Count(Rows, "query token")}";
        string split = SplitSequences == 0 ? "none" : Count(SplitSequences, "sequence");
        (string shared, string busiest) =
            Cluster > 1 ? ($" in clusters of {Cluster}", "cluster")
            : Teams > 1 ? ($" of {Teams} teams each", "team")
            : ("", "block");
        string staged = StagedTokens == 0 ? "" : $", {Count(StagedTokens, "token")} of {Count(StagedSequences, "sequence")} staged";
        string invariant = Determinism == Determinism.BatchInvariant ? ", batch-invariant" : "";
        return string.Create(
            CultureInfo.InvariantCulture,
            $"{Kernel}: {Count(Sequences, "sequence")} with {Count(Tokens, "token")}{rows} in {Count(Items, "item")} of up to {Count(ChunkTokens, "token")} ({split} split), {Count(Units, "unit")} on {Count(Blocks, "block")}{shared}, busiest {busiest} at {Imbalance:F2} of the mean{staged}{invariant}"
        );
    }

    /// <summary>The plans of parts of a batch, one after the other, as that of the batch.</summary>
    /// <param name="first">Null for none.</param>
    /// <param name="next">The next one.</param>
    internal static PlanInfo Then(in PlanInfo? first, in PlanInfo next) =>
        first is not { } info
            ? next
            : info with
            {
                Kernel = $"{info.Kernel}, then {next.Kernel}",
                Tokens = info.Tokens + next.Tokens,
                Items = info.Items + next.Items,
                Units = info.Units + next.Units,
                Blocks = Math.Max(info.Blocks, next.Blocks),
                Cluster = Math.Max(info.Cluster, next.Cluster),
                Teams = Math.Max(info.Teams, next.Teams),
                ChunkTokens = Math.Max(info.ChunkTokens, next.ChunkTokens),
                SplitSequences = info.SplitSequences + next.SplitSequences,
                Imbalance = Math.Max(info.Imbalance, next.Imbalance),
            };

    private static string Count(long number, string what) =>
        string.Create(CultureInfo.InvariantCulture, $"{number} {what}{(number == 1 ? "" : "s")}");
}
