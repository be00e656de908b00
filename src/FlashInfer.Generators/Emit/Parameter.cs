namespace FlashInfer.Generators.Emit;

/// <summary>One parameter of an emitted member: its declaration, its documentation and what is handed on to the base class, said once.</summary>
/// <param name="Type">Its type.</param>
/// <param name="Name">Its name.</param>
/// <param name="Words">Its documentation.</param>
/// <param name="Default">Its default value, as C# writes it; null when the caller has to give one.</param>
internal sealed record Parameter(string Type, string Name, string Words, string? Default = null)
{
    /// <summary>The last one of everything that queues work.</summary>
    public static readonly Parameter Stream = new(
        "global::FlashInfer.Cuda.CudaStream?",
        "stream",
        "A stream; the device's own when null.",
        "null"
    );

    /// <summary>What the base class takes for it.</summary>
    public string Passed { get; init; } = Name;

    /// <summary>As it stands in the member's signature.</summary>
    public string Declaration => Default is null ? $"{Type} {Name}" : $"{Type} {Name} = {Default}";

    /// <summary>As it stands above the member.</summary>
    public string Documentation => $"/// <param name=\"{Name}\">{Words}</param>";

    /// <summary>A typed tensor, whose base is a view.</summary>
    public static Parameter Tensor(string type, string name, string words) => new(type, name, words) { Passed = name + ".View" };
}
