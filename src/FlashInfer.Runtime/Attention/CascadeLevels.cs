using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>The levels of a cascade: which pages of a batch are shared, and the prefill kernel's plan for each level.</summary>
internal sealed class CascadeLevels : IDisposable
{
    // Decode of 16 sequences with a prefix of 8k tokens and 8 KV heads would read so much once more, and is as fast as a cascade on an
    // H100: what all of them read is in the L2 by then.
    private const long LevelBytes = 512 << 20;

    private readonly PagedKvCache _cache;
    private readonly TensorMap _kvMap;
    private readonly CascadeLevel[] _levels;

    // Of each sequence with query tokens, the first pages that it has in common with the one before; and of each shared level where each
    // sequence's range of pages ends.
    private readonly int[] _shared;
    private readonly int[] _ends;
    private int _sequences;

    /// <param name="cache">The cache that holds the sequences.</param>
    /// <param name="maxSequences">Sequences of the largest batch.</param>
    /// <param name="maxQueryTokens">Query tokens of the largest batch.</param>
    /// <param name="levels">Levels, the last included.</param>
    public CascadeLevels(PagedKvCache cache, int maxSequences, int maxQueryTokens, int levels)
    {
        AttentionSpec spec = cache.Spec;
        PrefillKernel kernel = cache.Kernels.Prefill(isPaged: true);
        long cacheTokens = (long)cache.TotalPages * spec.PageSize;
        int rowBytes = spec.Heads * spec.HeadDim * spec.Dtype.Size();
        _cache = cache;
        _kvMap = kernel.EncodeKvMap(cache);
        _shared = new int[maxSequences];
        _ends = new int[maxSequences * (levels - 1)];
        Costs = new CascadeCosts(2 * cache.PageElements * spec.KvDtype.Size(), 2 * rowBytes, LevelBytes);
        _levels = new CascadeLevel[levels];
        try
        {
            for (int level = 0; level < levels; level++)
            {
                PrefillCore core = new(
                    cache.Device,
                    spec,
                    kernel,
                    cacheTokens,
                    maxSequences,
                    maxQueryTokens,
                    Determinism.Reproducible,
                    level == 0 ? null : _levels[0].Core
                );
                _levels[level] = new CascadeLevel(core, maxSequences);
            }
        }
        catch
        {
            Dispose();
            throw;
        }
    }

    /// <summary>What plans weigh.</summary>
    public CascadeCosts Costs { get; set; }

    /// <summary>Shared levels in use.</summary>
    public int Shared { get; private set; }

    /// <summary>The levels' lists.</summary>
    public IEnumerable<PlanList> Lists => _levels.Select(static level => level.Core.List);

    /// <summary>What the plans of the levels in use look like.</summary>
    public IReadOnlyList<PlanInfo> Infos => [.. _levels.Take(Shared).Append(_levels[^1]).Select(static level => level.Info)];

    /// <summary>Device memory of the workspace, which is one for all.</summary>
    public long WorkspaceBytes => _levels[0].Core.WorkspaceBytes;

    /// <summary>Where a level of a sequence begins; sequences without query tokens do not count.</summary>
    public int FirstPage(int level, int sequence) => level == 0 ? 0 : _ends[((level - 1) * _sequences) + sequence];

    /// <summary>Finds as many shared levels as pay.</summary>
    public void Choose(PlannedBatch batch, ReadOnlySpan<Sequence> sequences, bool causal)
    {
        _sequences = batch.Places.Length;
        int most = 0;
        for (int i = 0; i < _sequences; i++)
        {
            // With causal attention, what lies before all query tokens.
            int before = causal ? Math.Max(0, batch.Lengths[i] - batch.QueryTokens[i]) : batch.Lengths[i];
            int pages = before / _cache.Spec.PageSize;
            _shared[i] = i == 0 ? 0 : Common(sequences[batch.Places[i - 1]], sequences[batch.Places[i]], Math.Min(most, pages));
            most = pages;
        }

        int levels = _levels.Length - 1;
        CascadePlanner planner = new(_shared.AsSpan(0, _sequences), batch.QueryTokens, Costs);
        Shared = planner.Choose(levels, _ends.AsSpan(0, levels * _sequences));
    }

    /// <summary>Plans all levels, those not in use as well: a captured graph launches them.</summary>
    public void Plan(PlannedBatch batch, bool causal, float scaleLog2, CudaStream? stream)
    {
        for (int level = 0; level < _levels.Length - 1; level++)
        {
            Share(level, batch);
            _levels[level].Plan(scaleLog2, stream);
        }

        CascadeLevel own = _levels[^1];
        own.Begin(causal);
        for (int i = 0; i < _sequences; i++)
        {
            int begin = FirstPage(_levels.Length - 1, i);
            own.Add(batch.QueryTokens[i], batch.PageOffsets[i] + begin, batch.Lengths[i] - (begin * _cache.Spec.PageSize));
        }

        own.Plan(scaleLog2, stream);
    }

    /// <summary>As <see cref="DecodeCore.Clear"/>.</summary>
    public void Clear(CudaStream? stream)
    {
        foreach (CascadeLevel level in _levels)
        {
            level.Core.Clear(stream);
        }
    }

    /// <summary>The arguments of a level's launch but for checks; throws unless the tensors are the plan's.</summary>
    public PrefillParams Arguments(int level, int layer, in TensorView query, in TensorView output, in TensorView lse, int rows)
    {
        PrefillParams args = _levels[level].Core.Arguments(query, output, lse, rows, "cache");
        PrefillCore.SetCache(ref args, _cache, _kvMap, layer);
        return args;
    }

    /// <summary>Launches the kernel over a level's list.</summary>
    public void Run(int level, ref PrefillParams args, int rows, CudaStream? stream) =>
        _cache.Table.IsCaptured |= _levels[level].Core.Run(ref args, rows, keyRows: 0, stream);

    public void Dispose()
    {
        // The first lends its workspace to the others.
        for (int level = _levels.Length - 1; level >= 0; level--)
        {
            _levels[level]?.Dispose();
        }
    }

    private static int Common(Sequence a, Sequence b, int most)
    {
        // Most often it is known without a look at the pages.
        int known = Math.Min(most, a.KnownShared(b));
        return known + a.Pages[known..most].CommonPrefixLength(b.Pages[known..most]);
    }

    /// <summary>Runs of sequences that have the same pages in a level; those that have none are together, and see nothing.</summary>
    private void Share(int index, PlannedBatch batch)
    {
        CascadeLevel level = _levels[index];
        level.Begin(causal: false);
        (int Begin, int End) last = default;
        for (int i = 0; i < _sequences; i++)
        {
            (int begin, int end) = (FirstPage(index, i), FirstPage(index + 1, i));
            bool joins = i > 0 && (begin == end ? last.Begin == last.End : (begin, end) == last && _shared[i] >= end);
            if (joins)
            {
                level.Extend(batch.QueryTokens[i]);
            }
            else
            {
                level.Add(batch.QueryTokens[i], batch.PageOffsets[i] + begin, (end - begin) * _cache.Spec.PageSize);
            }

            last = (begin, end);
        }
    }
}
