namespace FlashInfer.Cuda;

/// <summary>One step of the search for a native library.</summary>
/// <param name="Path">The file, folder, variable or bare library name that was tried.</param>
/// <param name="Outcome">What was found there, or why it was not used.</param>
public sealed record NativeSearchStep(string Path, string Outcome)
{
    /// <summary>The step in one line.</summary>
    public override string ToString() => $"{Path}: {Outcome}";
}
