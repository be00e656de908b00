using FlashInfer.Cuda;

namespace FlashInfer.Measurement;

/// <summary>
/// Launches over a few sets of buffers in turn, in a graph as long as a model's step: its own launch, its first launch's start and its last
/// one's end, which overlap nothing, take 5 to 10 µs. So that they can be timed round by round beside others.
/// </summary>
internal sealed class GraphRound : IRound
{
    private const double GraphUs = 10_000;
    private const double RoundUs = 20_000;

    // At its power limit a device remembers what ran in the last 50 to 100 ms.
    private const double SteadyUs = 100_000;
    private const double SustainedUs = 60_000;

    private readonly Device _device;
    private readonly Gpu _gpu;
    private readonly CudaGraph _graph;
    private readonly int _launches;
    private readonly double _graphUs;

    /// <summary>Records the launches.</summary>
    /// <param name="device">The device.</param>
    /// <param name="gpu">Its clock.</param>
    /// <param name="sets">Sets of buffers.</param>
    /// <param name="launch">Launches over one of them.</param>
    public GraphRound(Device device, Gpu gpu, int sets, Action<int> launch)
    {
        _device = device;
        _gpu = gpu;
        launch(0);
        double once = gpu.Once(() => launch(sets - 1));
        int rounds = (int)Math.Ceiling(GraphUs / once / sets);
        _launches = rounds * sets;
        _graph = gpu.Record(() =>
        {
            for (int i = 0; i < _launches; i++)
            {
                launch(i % sets);
            }
        });
        _graphUs = once * _launches;
    }

    /// <summary>
    /// One round: microseconds of a launch, the median of some replays. One goes before that is not timed: a device that has rested, as it
    /// does while a peer in another process is asked, runs faster at first than its power limit lets it go on.
    /// </summary>
    public double Us()
    {
        Replay();
        return _gpu.Round(Replay, Samples(RoundUs)) / _launches;
    }

    /// <summary>One round at the clock that the device keeps for this work: the median of some replays behind so many that nothing before them counts.</summary>
    public double Sustained()
    {
        for (double us = 0; us < SteadyUs; us += _graphUs)
        {
            Replay();
        }

        return _gpu.Round(Replay, Samples(SustainedUs)) / _launches;
    }

    private int Samples(double us) => (int)Math.Clamp(us / _graphUs, 1, 10);

    private void Replay() => _graph.Launch(_device.Stream!);

    public void Dispose() => _graph.Dispose();
}
