namespace FlashInfer.Tests.KvCache;

/// <summary>A cache, a decode wrapper over it and the model of both, driven by one operation after the other.</summary>
internal sealed class CacheRun : IDisposable
{
    private const int MaxSequences = 5;

    private readonly PagedKvCache _cache;
    private readonly PagedKvCache _other;
    private readonly BatchDecodeWithPagedKvCache _decode;
    private readonly Sequence _foreign;
    private readonly CacheModel _model;

    public CacheRun(Device device, int pageSize, int pages)
    {
        AttentionSpec spec = new(1, 1, 64, pageSize, DType.Float16);
        _cache = new PagedKvCache(device, spec, layers: 1, pages);
        _other = new PagedKvCache(device, spec, layers: 1, pages: 1);
        _decode = new BatchDecodeWithPagedKvCache(_cache, MaxSequences);
        _foreign = _other.NewSequence();
        _model = new CacheModel(pages, pageSize);
        for (int i = 0; i < 3; i++)
        {
            _model.Add(_cache.NewSequence());
        }
    }

    public void Do(CacheOperation operation)
    {
        if (operation.Kind == CacheOperationKind.New)
        {
            Sequence made = _cache.NewSequence();
            Assert.DoesNotContain(_model.Sequences, sequence => sequence.Actual.Id == made.Id);
            _model.Check(_cache, [_model.Add(made)]);
            return;
        }

        Sequence?[] batch = [.. operation.Operands.Select(operand => Resolve(operation.Kind, operand))];
        int[] tokens = [.. operation.Operands.Select((operand, i) => Tokens(operation.Kind, operand, batch[i]))];
        Type? verdict = _model.Verdict(operation.Kind, batch, tokens, MaxSequences);
        int revision = _cache.Revision;
        int[] revisions = [.. _model.Sequences.Select(sequence => sequence.Actual.Revision)];
        if (operation.Kind == CacheOperationKind.TryBegin && verdict == typeof(OutOfPagesException))
        {
            Assert.False(Try(batch!, tokens));
        }
        else if (verdict is not null)
        {
            Exception thrown = Assert.Throws(verdict, () => Call(operation.Kind, batch!, tokens));
            if (thrown is OutOfPagesException e)
            {
                long needed = operation.Kind == CacheOperationKind.Fork ? 1 : _model.NeededPages(batch, tokens);
                Assert.Equal((Math.Min(needed, int.MaxValue), _model.FreePages, _cache.TotalPages), (e.Needed, e.Free, e.Total));
                Assert.False(operation.Kind == CacheOperationKind.Fork && _cache.TryFork(batch[0]!, tokens[0], out _));
            }
        }
        else if (operation.Kind == CacheOperationKind.Fork)
        {
            ModelSequence fork = _model.Fork(_model.Find(batch[0])!, tokens[0], Fork(batch[0]!, tokens[0]));
            _model.Check(_cache, [fork]);
            CheckStretches();
            return;
        }
        else
        {
            Call(operation.Kind, batch!, tokens);
            Apply(operation.Kind, batch, tokens);
            _model.Check(_cache, operation.Kind == CacheOperationKind.Plan ? [] : batch.Select(s => _model.Find(s)!));
            CheckStretches();
            return;
        }

        // Nothing changed: not the pages, not where they lie, not what plans hold on to.
        _model.Check(_cache, []);
        Assert.Equal(revision, _cache.Revision);
        Assert.Equal(revisions, _model.Sequences.Select(sequence => sequence.Actual.Revision));
        Assert.Equal((0, 0), (_foreign.KvLength, _foreign.PageCount));
    }

    public void Dispose()
    {
        _decode.Dispose();
        _cache.Dispose();
        _other.Dispose();
    }

    /// <summary>Frees everything that is left: no page may be missing.</summary>
    public void FreeAll()
    {
        foreach (ModelSequence sequence in _model.Sequences.Where(s => !s.IsFreed))
        {
            _cache.Free(sequence.Actual);
        }

        Assert.Equal(_cache.TotalPages, _cache.FreePages);
    }

    private Sequence? Resolve(CacheOperationKind kind, CacheOperand operand)
    {
        ModelSequence[] candidates = operand.Choice switch
        {
            < 90 => [.. _model.Sequences.Where(s => IsLegal(kind, s))],
            < 92 => [.. _model.Sequences.Where(s => s.IsFreed)],
            < 94 => [],
            _ => [.. _model.Sequences],
        };
        return candidates.Length > 0 ? candidates[operand.Number % candidates.Length].Actual
            : operand.Choice % 2 == 0 ? _foreign
            : null;
    }

    /// <summary>Of a fork mostly a number that the sequence has.</summary>
    private int Tokens(CacheOperationKind kind, CacheOperand operand, Sequence? sequence) =>
        kind == CacheOperationKind.Fork && operand.Choice < 90 && _model.Find(sequence) is { } found
            ? Math.Abs(operand.Tokens % (found.Length + 1))
            : operand.Tokens;

    private static bool IsLegal(CacheOperationKind kind, ModelSequence sequence) =>
        !sequence.IsFreed
        && kind switch
        {
            CacheOperationKind.Begin or CacheOperationKind.TryBegin => sequence.ForwardTokens == 0,
            CacheOperationKind.End or CacheOperationKind.Accept or CacheOperationKind.Abandon => sequence.ForwardTokens > 0,
            _ => true,
        };

    private void Call(CacheOperationKind kind, Sequence[] batch, int[] tokens)
    {
        switch (kind)
        {
            case CacheOperationKind.Begin when batch.Length == 1:
                _cache.BeginForward(batch[0], tokens[0]);
                break;
            case CacheOperationKind.Begin:
                _cache.BeginForward(batch, tokens);
                break;
            case CacheOperationKind.TryBegin:
                Assert.True(Try(batch, tokens));
                break;
            case CacheOperationKind.End when batch.Length == 1:
                _cache.EndForward(batch[0]);
                break;
            case CacheOperationKind.End:
                _cache.EndForward(batch);
                break;
            case CacheOperationKind.Accept when batch.Length == 1:
                _cache.EndForward(batch[0], tokens[0]);
                break;
            case CacheOperationKind.Accept:
                _cache.EndForward(batch, tokens);
                break;
            case CacheOperationKind.Abandon when batch.Length == 1:
                _cache.AbandonForward(batch[0]);
                break;
            case CacheOperationKind.Abandon:
                _cache.AbandonForward(batch);
                break;
            case CacheOperationKind.Free:
                _cache.Free(batch[0]);
                break;
            case CacheOperationKind.Fork:
                _cache.Fork(batch[0], tokens[0]);
                break;
            default:
                _decode.Plan(batch);
                break;
        }
    }

    private Sequence Fork(Sequence sequence, int tokens) =>
        tokens % 2 == 0 ? _cache.Fork(sequence, tokens)
        : _cache.TryFork(sequence, tokens, out Sequence? fork) ? fork
        : throw new InvalidOperationException("TryFork refused what the model allows.");

    private bool Try(Sequence[] batch, int[] tokens) =>
        batch.Length == 1 ? _cache.TryBeginForward(batch[0], tokens[0]) : _cache.TryBeginForward(batch, tokens);

    private void Apply(CacheOperationKind kind, Sequence?[] batch, int[] tokens)
    {
        for (int i = 0; i < batch.Length; i++)
        {
            ModelSequence sequence = _model.Find(batch[i])!;
            switch (kind)
            {
                case CacheOperationKind.Begin or CacheOperationKind.TryBegin:
                    _model.Begin(sequence, tokens[i]);
                    break;
                case CacheOperationKind.End:
                    CacheModel.End(sequence);
                    break;
                case CacheOperationKind.Accept:
                    _model.Accept(sequence, tokens[i]);
                    break;
                case CacheOperationKind.Abandon:
                    _model.Abandon(sequence);
                    break;
                case CacheOperationKind.Free:
                    _model.Free(sequence);
                    break;
            }
        }

        if (kind == CacheOperationKind.Plan)
        {
            PageTableChecks.DeviceEqualsHost(_cache, _model.Sequences.Select(sequence => sequence.Actual));
        }
    }

    private void CheckStretches() => PageTableChecks.StretchesAreApart(_cache, _model.Sequences.Select(sequence => sequence.Actual));
}
