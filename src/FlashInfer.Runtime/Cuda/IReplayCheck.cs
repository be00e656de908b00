namespace FlashInfer.Cuda;

/// <summary>What has to be looked at whenever a graph is launched; given to the stream that the graph is captured from.</summary>
internal interface IReplayCheck
{
    /// <summary>Before the graph is queued; may throw.</summary>
    void BeforeReplay(CudaStream stream);

    /// <summary>After it was queued: what to throw, or null.</summary>
    Exception? AfterReplay(CudaStream stream);
}
