using System.Collections.Generic;
using System.Linq;
using System.Threading;
using FlashInfer.Generators.Model;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <summary>Lowers a variant's hooks and the static methods that they call to the functions of one struct.</summary>
internal sealed class VariantLowering(
    VariantTypes types,
    IReadOnlyList<VariantArgument> arguments,
    Compilation compilation,
    VariantProblems problems,
    CancellationToken cancellationToken
)
{
    private readonly Dictionary<IMethodSymbol, Helper> _helpers = new(SymbolEqualityComparer.Default);
    private readonly Dictionary<SyntaxTree, SemanticModel> _models = new();
    private readonly CudaWriter _helperText = new(1);
    private bool _hasLoops;

    // Members of the struct: the class's methods, whether called or not, so that a new call changes no other name.
    private readonly CudaNames _methods = new();
    private readonly CudaNames _arguments = new();

    public VariantTypes Types => types;

    public VariantProblems Problems => problems;

    public CancellationToken CancellationToken => cancellationToken;

    /// <summary>The struct's text.</summary>
    /// <param name="hooks">The hooks, at most one of a kind.</param>
    public string Lower(IReadOnlyList<(VariantHookKind Kind, IMethodSymbol Method)> hooks)
    {
        foreach (IMethodSymbol method in types.Class.GetMembers().OfType<IMethodSymbol>())
        {
            NameOf(method);
        }

        CudaWriter text = new(0);
        text.Line("namespace csharp = flashinfer::csharp;");
        text.Line();
        // Kernels pay for a transform, also for one that does nothing.
        hooks = hooks.Where(hook => !hook.Kind.Replaces() || !ReturnsItsParameter(hook.Method)).ToList();
        IMethodSymbol? transform = hooks.FirstOrDefault(static hook => hook.Kind == VariantHookKind.Transform).Method;
        TransformParts? parts = transform is null ? null : TransformParts.Of(transform, DeclarationOf(transform));
        string parent = parts switch
        {
            null => "NoVariant",
            { Slope: not null, After.Count: 0 } => "TransformByLine<Variant>",
            { Slope: not null } => "TransformByScaledLine<Variant>",
            { IsCap: true } => "TransformByCap<Variant>",
            _ => "TransformInParts<Variant>",
        };
        text.Open($"struct Variant : flashinfer::{parent}");
        // Without any, NoVariant has them.
        if (arguments.Count > 0)
        {
            text.Open("struct Arguments");
            foreach (VariantArgument argument in arguments)
            {
                text.Line($"{Declare(argument)} {_arguments.Of(argument.Name)};");
            }

            text.Close("};");
            text.Line();
        }

        foreach ((VariantHookKind kind, _) in hooks.Where(hook => hook.Kind != VariantHookKind.Transform || parts is null))
        {
            text.Line($"static constexpr bool {Flag(kind)} = true;");
        }

        foreach ((VariantHookKind kind, IMethodSymbol method) in hooks)
        {
            cancellationToken.ThrowIfCancellationRequested();
            if (kind == VariantHookKind.Transform && parts is not null)
            {
                Write(text, method, parts);
                continue;
            }

            MethodLowering body = new(this, _methods, kind == VariantHookKind.FirstKey);
            text.Line();
            body.Write(text, Signature(kind, method, body), DeclarationOf(method));
        }

        text.Append(_helperText);
        if (_hasLoops)
        {
            text.Line();
            text.Line("static constexpr bool kHasLoops = true;");
        }

        text.Close("};");
        return text.ToString();
    }

    /// <summary>The parts of a transform, from which its base makes the whole.</summary>
    private void Write(CudaWriter text, IMethodSymbol method, TransformParts parts)
    {
        string Context(MethodLowering body) => body.Declare(method.Parameters[1]);
        string Arguments(MethodLowering body) => method.Parameters.Length > 2 ? body.Declare(method.Parameters[2]) : "const Arguments&";
        if (parts.Slope is not null)
        {
            MethodLowering line = new(this, _methods, isFirstKey: false);
            text.Line();
            line.WriteLine(text, $"flashinfer::Line line({Context(line)}, {Arguments(line)})", parts);
        }

        if (!parts.IsCap && (parts.Before.Count > 0 || parts.Bend is not null))
        {
            text.Line("static constexpr bool kBends = true;");
        }

        if (parts.Before.Count > 0)
        {
            MethodLowering before = new(this, _methods, isFirstKey: false);
            text.Line();
            before.WriteProduct(text, $"float before({Context(before)}, {Arguments(before)})", parts, parts.Before);
        }

        if (!parts.IsCap && parts.Bend is not null)
        {
            MethodLowering bend = new(this, _methods, isFirstKey: false);
            string logit = bend.Declare(method.Parameters[0]);
            text.Line();
            bend.WriteBend(text, $"float bend({logit}, {Context(bend)}, {Arguments(bend)})", parts, method.Parameters[0]);
        }

        if (parts.After.Count > 0)
        {
            MethodLowering after = new(this, _methods, isFirstKey: false);
            text.Line();
            after.WriteProduct(text, $"float after({Arguments(after)})", parts, parts.After);
        }
    }

    /// <summary>The name of a method of the class.</summary>
    public string NameOf(IMethodSymbol method) => _methods.Of(method.Name, method.GetDocumentationCommentId() ?? method.Name);

    /// <summary>An argument's name in CUDA.</summary>
    public string ArgumentName(string property) => _arguments.Of(property);

    /// <summary>Lowers a method that is called, unless that is done; false when it calls itself.</summary>
    public bool Require(IMethodSymbol method, out bool readsKey)
    {
        if (_helpers.TryGetValue(method, out Helper? known))
        {
            readsKey = known.ReadsKey;
            return known.IsDone;
        }

        Helper helper = new();
        _helpers.Add(method, helper);
        MethodLowering body = new(this, _methods, isFirstKey: false);
        IEnumerable<string> parameters = method.Parameters.Select(parameter => body.Declare(parameter));
        string head = $"{Scalars.Cuda(Scalars.Of(method.ReturnType))} {NameOf(method)}({string.Join(", ", parameters)})";
        CudaWriter text = new(1);
        text.Line();
        body.Write(text, head, DeclarationOf(method));
        _helperText.Append(text);
        helper.IsDone = true;
        helper.ReadsKey = readsKey = body.ReadsKey;
        return true;
    }

    /// <summary>The value of a readonly field that is a constant all the same; null when it is not.</summary>
    public object? ConstantOf(IFieldSymbol field)
    {
        bool isAssignedElsewhere = field.ContainingType.StaticConstructors.Any(static constructor => !constructor.IsImplicitlyDeclared);
        if (!field.IsReadOnly || isAssignedElsewhere || field.DeclaringSyntaxReferences.Length != 1)
        {
            return null;
        }

        SyntaxNode declarator = field.DeclaringSyntaxReferences[0].GetSyntax(cancellationToken);
        SyntaxNode? initializer = declarator
            .ChildNodes()
            .OfType<Microsoft.CodeAnalysis.CSharp.Syntax.EqualsValueClauseSyntax>()
            .FirstOrDefault();
        return
            initializer is not null
            && ModelOf(initializer).GetOperation(initializer, cancellationToken) is IFieldInitializerOperation { Value: var value }
            ? value.ConstantValue.Value
            : null;
    }

    private IMethodBodyOperation? DeclarationOf(IMethodSymbol method)
    {
        IMethodSymbol implementation = method.PartialImplementationPart ?? method;
        SyntaxNode? declaration = implementation.DeclaringSyntaxReferences.FirstOrDefault()?.GetSyntax(cancellationToken);
        IMethodBodyOperation? body = declaration is null
            ? null
            : ModelOf(declaration).GetOperation(declaration, cancellationToken) as IMethodBodyOperation;
        _hasLoops |= body?.Descendants().OfType<ILoopOperation>().Any() == true;
        return body;
    }

    private bool ReturnsItsParameter(IMethodSymbol transform) =>
        DeclarationOf(transform) is { } body
        && (body.BlockBody ?? body.ExpressionBody)
            is { Operations: [IReturnOperation { ReturnedValue: IParameterReferenceOperation { Parameter.Ordinal: 0 } }] };

    // A class may lie in several files, and so may its methods.
    private SemanticModel ModelOf(SyntaxNode node)
    {
        if (!_models.TryGetValue(node.SyntaxTree, out SemanticModel? model))
        {
            model = compilation.GetSemanticModel(node.SyntaxTree);
            _models.Add(node.SyntaxTree, model);
        }

        return model;
    }

    // A bool lies in memory as an int.
    private static string Declare(VariantArgument argument)
    {
        Scalar element = argument.Element switch
        {
            "int" => Scalar.Int,
            "uint" => Scalar.UInt,
            "float" => Scalar.Float,
            "bool" => argument.IsSpan ? Scalar.Bool : Scalar.Int,
            _ => Scalar.Byte,
        };
        return argument.IsSpan ? VariantTypes.Span(element) : Scalars.Cuda(element);
    }

    private static string Flag(VariantHookKind kind) =>
        kind switch
        {
            VariantHookKind.Transform => "kTransformsLogits",
            VariantHookKind.Mask => "kMasksLogits",
            VariantHookKind.FirstKey => "kBoundsKeys",
            VariantHookKind.QueryTransform => "kTransformsQuery",
            VariantHookKind.OutputTransform => "kTransformsOutput",
            _ => "kHasSink",
        };

    // As NoVariant has them: the arguments are always passed.
    private static string Signature(VariantHookKind kind, IMethodSymbol method, MethodLowering body)
    {
        List<string> parameters = method.Parameters.Select(parameter => body.Declare(parameter)).ToList();
        if (parameters.Count == kind.OwnParameters())
        {
            parameters.Add("const Arguments&");
        }

        string function = kind switch
        {
            VariantHookKind.Transform => "float transform",
            VariantHookKind.Mask => "bool keep",
            VariantHookKind.FirstKey => "int first_key",
            VariantHookKind.QueryTransform => "float transform_query",
            VariantHookKind.OutputTransform => "float transform_output",
            _ => "float sink",
        };
        return $"{function}({string.Join(", ", parameters)})";
    }

    private sealed class Helper
    {
        public bool IsDone { get; set; }

        public bool ReadsKey { get; set; }
    }
}
