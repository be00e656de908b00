using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>What is known of a stream: the device's own, one made in this member, or a variable whose value nobody can tell.</summary>
/// <param name="Variable">The variable, where there is one.</param>
/// <param name="IsOwn">The device's own stream.</param>
/// <param name="IsNew">Made here, and so not the device's own.</param>
internal readonly record struct StreamName(ISymbol? Variable, bool IsOwn, bool IsNew)
{
    /// <summary>As a message names it.</summary>
    public override string ToString() => IsOwn ? "the device's own stream" : $"the stream '{Variable?.Name}'";

    public bool IsSame(StreamName other) =>
        (IsOwn && other.IsOwn) || (Variable is not null && SymbolEqualityComparer.Default.Equals(Variable, other.Variable));

    public bool IsAnother(StreamName other) => (IsOwn || IsNew) && (other.IsOwn || other.IsNew) && !IsSame(other);
}

/// <summary>Tells streams apart.</summary>
internal sealed class Streams
{
    private readonly Paths _paths;
    private readonly IOperation _root;
    private readonly KnownTypes _types;

    public Streams(Paths paths, IOperation root, KnownTypes types)
    {
        _paths = paths;
        _root = root;
        _types = types;
    }

    /// <summary>The stream that a call queues its work on; null when it takes none.</summary>
    public StreamName? Of(IInvocationOperation call) =>
        _types.IsOurs(call.TargetMethod) && call.Argument("stream") is { } argument && _types.IsStream(argument.Parameter?.Type)
            ? Of(argument)
            : null;

    /// <summary>The stream that an expression gives.</summary>
    public StreamName Of(IOperation? stream)
    {
        IOperation? value = stream.Unwrap();
        if (value is null or IDefaultValueOperation or ILiteralOperation || IsOwn(value))
        {
            return new StreamName(null, IsOwn: true, IsNew: false);
        }

        ISymbol? symbol = _paths.Symbol(value);
        return symbol is ILocalSymbol local ? Of(local) : new StreamName(symbol, IsOwn: false, IsNew: false);
    }

    private StreamName Of(ILocalSymbol local)
    {
        IOperation?[] values = _root
            .Descendants()
            .Select(o =>
                o switch
                {
                    IVariableDeclaratorOperation declarator when Is(declarator.Symbol) => declarator.Initializer?.Value,
                    IAssignmentOperation { Target: ILocalReferenceOperation target } assignment when Is(target.Local) => assignment.Value,
                    // device.Stream is { } stream
                    IIsPatternOperation { Pattern: IRecursivePatternOperation { DeclaredSymbol: var symbol } } match when Is(symbol) =>
                        match.Value,
                    IIsPatternOperation { Pattern: IDeclarationPatternOperation { DeclaredSymbol: var symbol } } match when Is(symbol) =>
                        match.Value,
                    _ => null,
                }
            )
            .Where(static value => value is not null)
            .ToArray();
        bool isOwn = values.Length == 1 && IsOwn(values[0].Unwrap());
        bool isNew = values.Length > 0 && values.All(static value => value.Unwrap() is IObjectCreationOperation) && !BecomesOwn(local);
        return new StreamName(local, isOwn, isNew);

        bool Is(ISymbol? symbol) => SymbolEqualityComparer.Default.Equals(symbol, local);
    }

    private bool IsOwn(IOperation? value) =>
        value is IPropertyReferenceOperation { Property.Name: "Stream", Instance: var device } && _types.IsDevice(device?.Type);

    // Device.FromCuda(context, stream)
    private bool BecomesOwn(ILocalSymbol local) =>
        _root
            .Descendants()
            .OfType<IInvocationOperation>()
            .Any(call => _types.IsDevice(call.Type) && call.Arguments.Any(argument => argument.Mentions(local)));
}
