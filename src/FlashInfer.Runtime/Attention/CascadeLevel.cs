using FlashInfer.Cuda;
using FlashInfer.Planning;

namespace FlashInfer.Attention;

/// <summary>One level of cascade attention: runs of neighbouring rows, each with a range of pages that its rows attend to.</summary>
internal sealed class CascadeLevel : IDisposable
{
    private readonly PrefillCore _core;
    private readonly int[] _queryTokens;
    private readonly int[] _lengths;
    private readonly int[] _starts;
    private readonly int[] _firstRows;
    private int _rows;
    private bool _causal;

    /// <param name="core">What plans and launches; owned from here on.</param>
    /// <param name="maxSequences">Runs at most.</param>
    public CascadeLevel(PrefillCore core, int maxSequences)
    {
        _core = core;
        _queryTokens = new int[maxSequences];
        _lengths = new int[maxSequences];
        _starts = new int[maxSequences];
        _firstRows = new int[maxSequences];
    }

    /// <summary>Runs of the level.</summary>
    public int Runs { get; private set; }

    /// <summary>What the level's plan looks like.</summary>
    public PlanInfo Info => _core.Info(Batch, Runs, _rows);

    /// <summary>Plans and launches.</summary>
    public PrefillCore Core => _core;

    private PrefillBatch Batch =>
        new(_queryTokens.AsSpan(0, Runs), _lengths.AsSpan(0, Runs), _starts.AsSpan(0, Runs), _firstRows.AsSpan(0, Runs), _causal);

    /// <summary>Forgets the runs.</summary>
    public void Begin(bool causal)
    {
        Runs = 0;
        _rows = 0;
        _causal = causal;
    }

    /// <summary>Adds a run behind the others.</summary>
    /// <param name="queryTokens">Its rows.</param>
    /// <param name="start">Where its pages start in the page table.</param>
    /// <param name="length">Their tokens.</param>
    public void Add(int queryTokens, int start, int length)
    {
        _queryTokens[Runs] = queryTokens;
        _starts[Runs] = start;
        _firstRows[Runs] = _rows;
        _lengths[Runs++] = length;
        _rows += queryTokens;
    }

    /// <summary>Lengthens the last run.</summary>
    public void Extend(int queryTokens)
    {
        _queryTokens[Runs - 1] += queryTokens;
        _rows += queryTokens;
    }

    /// <summary>Plans the runs and sends the list to the device.</summary>
    public void Plan(float scaleLog2, CudaStream? stream)
    {
        _core.Plan(Batch, scaleLog2, stream);
    }

    public void Dispose() => _core.Dispose();
}
