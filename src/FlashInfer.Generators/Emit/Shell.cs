namespace FlashInfer.Generators.Emit;

/// <summary>
/// A typed class over one of the runtime: it fixes the configuration and the tensor roles in its signatures and holds no logic.
/// </summary>
/// <param name="Name">Its name, and that of the runtime's class.</param>
/// <param name="Summary">What it is, in this configuration's numbers.</param>
/// <param name="Constructor">Its constructor.</param>
internal sealed record Shell(string Name, string Summary, ShellMethod Constructor)
{
    /// <summary>The overloads of Plan; they are the base class's where the configuration's variant takes no arguments.</summary>
    public ShellPlan[] Plans { get; init; } = [];

    /// <summary>The overloads of Append.</summary>
    public ShellMethod[] Appends { get; init; } = [];

    /// <summary>What Run reads, which stands before what it writes; null where nothing runs.</summary>
    public Parameter[]? Run { get; init; }
}

/// <summary>A method of a shell.</summary>
/// <param name="Summary">What it does.</param>
/// <param name="Parameters">All of them.</param>
internal sealed record ShellMethod(string Summary, params Parameter[] Parameters);

/// <summary>An overload of Plan.</summary>
/// <param name="Summary">What it plans.</param>
/// <param name="Inputs">What has to be given. The arguments of a variant follow.</param>
/// <param name="Options">What has a default.</param>
internal sealed record ShellPlan(string Summary, Parameter[] Inputs, Parameter[] Options);
