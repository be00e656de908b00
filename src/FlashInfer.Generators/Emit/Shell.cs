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

    /// <summary>Run; null where nothing runs.</summary>
    public ShellRun? Run { get; init; }
}

/// <summary>A method of a shell.</summary>
/// <param name="Summary">What it does.</param>
/// <param name="Parameters">All of them.</param>
internal sealed record ShellMethod(string Summary, params Parameter[] Parameters);

/// <summary>The overloads of Run.</summary>
/// <param name="Summary">What it attends with.</param>
/// <param name="Inputs">What it reads, which stands before what it writes.</param>
internal sealed record ShellRun(string Summary, Parameter[] Inputs)
{
    /// <summary>What has a default.</summary>
    public Parameter[] Options { get; init; } = [Parameter.Stream];

    /// <summary>Whether it plans too: then the arguments of a variant follow what it reads.</summary>
    public bool Plans { get; init; }

    /// <summary>The first dimension of what it writes.</summary>
    public string Rows { get; init; } = "rows";
}

/// <summary>An overload of Plan.</summary>
/// <param name="Summary">What it plans.</param>
/// <param name="Inputs">What has to be given. The arguments of a variant follow.</param>
/// <param name="Options">What has a default.</param>
internal sealed record ShellPlan(string Summary, Parameter[] Inputs, Parameter[] Options);
