using System.Collections.Generic;
using System.Collections.Immutable;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Lowering;

/// <summary>Lowers one method: its statements here, assignments, expressions, patterns and loops in files of their own.</summary>
/// <param name="variant">The variant that the method is part of.</param>
/// <param name="methods">The names of the methods around.</param>
/// <param name="isFirstKey">Whether it is the hook that is asked before there is a key.</param>
internal sealed partial class MethodLowering(VariantLowering variant, CudaNames methods, bool isFirstKey)
{
    private readonly CudaNames _names = new(methods);
    private readonly HashSet<ISymbol> _assigned = new(SymbolEqualityComparer.Default);
    private readonly Dictionary<ISymbol, Interval> _ranges = new(SymbolEqualityComparer.Default);

    // Locals that have no type in a kernel: where they are declared it is said, where they are used not again.
    private readonly HashSet<ISymbol> _reported = new(SymbolEqualityComparer.Default);
    private CudaWriter _text = new(1);

    /// <summary>Whether it, or a method that it calls, reads what <c>[FirstKey]</c> is not given.</summary>
    public bool ReadsKey { get; private set; }

    /// <summary>A parameter as CUDA declares it.</summary>
    public string Declare(IParameterSymbol parameter) => $"{variant.Types.Declare(parameter.Type)} {_names.Of(parameter.Name)}";

    /// <summary>Writes the function.</summary>
    /// <param name="text">Where to.</param>
    /// <param name="head">Its return type, name and parameters.</param>
    /// <param name="body">Its body; null when the compiler has none.</param>
    public void Write(CudaWriter text, string head, IMethodBodyOperation? body)
    {
        _text = text;
        if ((body?.BlockBody ?? body?.ExpressionBody) is not { } block)
        {
            variant.Problems.Broken();
            return;
        }

        _assigned.UnionWith(AssignedIn(block));
        _text.Open($"static __device__ __forceinline__ {head}");
        Statements(block.Operations);
        _text.Close();
    }

    private void Statements(ImmutableArray<IOperation> statements)
    {
        foreach (IOperation statement in statements)
        {
            Statement(statement);
            if (statement is IReturnOperation or IBranchOperation)
            {
                // What follows is never reached; the C# compiler has said so.
                break;
            }
        }
    }

    private void Statement(IOperation statement)
    {
        variant.CancellationToken.ThrowIfCancellationRequested();
        switch (statement)
        {
            case IEmptyOperation:
                break;
            case IBlockOperation block:
                _text.Line("{");
                Nested(block);
                _text.Line("}");
                break;
            case IVariableDeclarationGroupOperation declarations:
                foreach (IVariableDeclaratorOperation declarator in Declarators(declarations))
                {
                    Declare(declarator);
                }

                break;
            case IExpressionStatementOperation { Operation: var operation }:
                if (Assignment(operation) is { Length: > 0 } assignment)
                {
                    _text.Line(assignment + ";");
                }

                break;
            case IConditionalOperation conditional:
                If(conditional);
                break;
            case ISwitchOperation choice:
                Switch(choice);
                break;
            case IForLoopOperation loop:
                For(loop);
                break;
            case IWhileLoopOperation loop:
                Unbounded(loop);
                break;
            case ILabeledOperation { Operation: var labeled }:
                // What jumps there is reported.
                if (labeled is not null)
                {
                    Statement(labeled);
                }

                break;
            case IBranchOperation { BranchKind: BranchKind.Break }:
                _text.Line("break;");
                break;
            case IBranchOperation { BranchKind: BranchKind.Continue }:
                _text.Line("continue;");
                break;
            case IReturnOperation { Kind: OperationKind.Return, ReturnedValue: { } value }:
                _text.Line($"return {Lower(value).Text};");
                break;
            default:
                Unsupported(statement);
                break;
        }
    }

    /// <summary>The statements of a block, without its braces, or the one statement in its place.</summary>
    private void Nested(IOperation statement)
    {
        CudaWriter outer = _text;
        _text = outer.Inner();
        Statements(statement is IBlockOperation block ? block.Operations : ImmutableArray.Create(statement));
        outer.Append(_text);
        _text = outer;
    }

    private static IEnumerable<IVariableDeclaratorOperation> Declarators(IVariableDeclarationGroupOperation declarations) =>
        declarations.Declarations.SelectMany(static declaration => declaration.Declarators);

    private void Declare(IVariableDeclaratorOperation declarator)
    {
        ILocalSymbol local = declarator.Symbol;
        // A constant stands in the expressions that name it.
        if (local.IsConst)
        {
            return;
        }

        if (Type(declarator, local) is not { } type)
        {
            return;
        }

        Expression? value = declarator.GetVariableInitializer() is { } initializer ? Lower(initializer.Value) : null;
        bool isFixed = value is not null && !_assigned.Contains(local);
        if (isFixed)
        {
            _ranges[local] = value!.Range;
        }

        _text.Line($"{(isFixed ? "const " : "")}{type} {_names.Of(local.Name)}{(value is null ? "" : $" = {value.Text}")};");
    }

    /// <summary>A local's type in CUDA; null when it has none, which is reported.</summary>
    private string? Type(IVariableDeclaratorOperation declarator, ILocalSymbol local)
    {
        if (local.Type.TypeKind == TypeKind.Error)
        {
            variant.Problems.Broken();
            return null;
        }

        if (local.RefKind != RefKind.None)
        {
            Unsupported(declarator.Syntax, "A ref local", "copy the value");
            _reported.Add(local);
            return null;
        }

        bool isReference = VariantTypes.IsContext(local.Type) || variant.Types.IsArguments(local.Type);
        if (isReference || variant.Types.Declare(local.Type) is not { } type)
        {
            // A construct that makes such a value says more than its type does.
            if (declarator.GetVariableInitializer()?.Value is { } value && IsUnsupportedConstruct(value))
            {
                Lower(value);
            }
            else
            {
                UnsupportedType(declarator.Syntax, local.Type);
            }

            _reported.Add(local);
            return null;
        }

        return type;
    }

    private void If(IConditionalOperation conditional)
    {
        // Decided at compile time: by a constant of the configuration, say.
        if (conditional.Condition.ConstantValue is { HasValue: true, Value: bool constant })
        {
            if ((constant ? conditional.WhenTrue : conditional.WhenFalse) is { } taken)
            {
                Statement(taken);
            }

            return;
        }

        _text.Line($"if ({Lower(conditional.Condition).Text}) {{");
        Nested(conditional.WhenTrue);
        IOperation? otherwise = conditional.WhenFalse;
        while (otherwise is IConditionalOperation { Condition.ConstantValue.HasValue: false } next)
        {
            _text.Line($"}} else if ({Lower(next.Condition).Text}) {{");
            Nested(next.WhenTrue);
            otherwise = next.WhenFalse;
        }

        if (otherwise is not null)
        {
            _text.Line("} else {");
            Nested(otherwise);
        }

        _text.Line("}");
    }

    /// <summary>What a local or parameter may be: what is known of one that nothing assigns, else all of its type.</summary>
    private Interval RangeOf(ISymbol symbol, ITypeSymbol? type) =>
        _ranges.TryGetValue(symbol, out Interval range) ? range : Interval.Of(Scalars.Of(type));
}
