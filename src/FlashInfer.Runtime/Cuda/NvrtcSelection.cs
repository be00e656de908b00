namespace FlashInfer.Cuda;

/// <summary>
/// The NVRTC that one compiler uses: located when it is first asked for, loaded only when something has to be compiled. A file that
/// cannot be loaded is passed over for the next one that the search finds.
/// </summary>
internal sealed class NvrtcSelection
{
    private readonly Lock _lock = new();
    private readonly List<NativeSearchStep> _trace = [];
    private readonly IEnumerator<NvrtcCandidate> _candidates;
    private bool _started;
    private NvrtcCandidate? _current;
    private NvrtcLibrary? _library;

    public NvrtcSelection(NativeLocatorHost host, string? overridePath)
    {
        Override = overridePath ?? host.Variable(NativeLocator.NvrtcVariable);
        _candidates = NativeLocator.FindNvrtc(host, Override, _trace).GetEnumerator();
    }

    /// <summary>The file or folder that was asked for; null when it is searched for.</summary>
    public string? Override { get; }

    /// <summary>Every step so far.</summary>
    public IReadOnlyList<NativeSearchStep> Trace
    {
        get
        {
            lock (_lock)
            {
                return [.. _trace];
            }
        }
    }

    /// <summary>What stands for the located NVRTC in cache keys; null when that takes loading it, or when there is none.</summary>
    public string? LocatedIdentity
    {
        get
        {
            lock (_lock)
            {
                Start();
                return _library?.Identity ?? _current?.Identity;
            }
        }
    }

    /// <summary>
    /// Whether there is an NVRTC to compile with. A file that the search found is not loaded for the answer, which takes tens of
    /// milliseconds; only where there is none is the system's loader asked, which means loading what it knows.
    /// </summary>
    public bool IsAvailable => LocatedIdentity is not null || Load() is not null;

    /// <summary>The loaded library, loaded now if need be; null when no candidate is left, which <see cref="Trace"/> explains.</summary>
    public NvrtcLibrary? Load()
    {
        lock (_lock)
        {
            Start();
            while (_library is null && _current is not null)
            {
                bool success = NvrtcLibrary.TryLoad(_current, out NvrtcLibrary? result, out string reason);
                if (success && Override is not null && result!.Identity != _current.Identity)
                {
                    reason =
                        $"this process has loaded NVRTC {result.Version} from {result.Candidate.Path} already, and a process uses one NVRTC; give all compilers the same";
                    success = false;
                }

                if (success)
                {
                    _library = result;
                    break;
                }

                _trace.Add(new NativeSearchStep(_current.Path, reason));
                Next();
            }

            return _library;
        }
    }

    private void Start()
    {
        if (!_started)
        {
            _started = true;
            Next();
        }
    }

    private void Next() => _current = _candidates.MoveNext() ? _candidates.Current : null;
}
