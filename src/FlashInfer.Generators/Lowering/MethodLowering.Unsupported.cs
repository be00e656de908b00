using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Operations;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.Generators.Lowering;

/// <content>What cannot be lowered, by its name in C#, and what to write instead.</content>
internal sealed partial class MethodLowering
{
    private const string WriteMethod = "write a static method of the class and call it";
    private const string NoHeap = "kernels have no heap; make it a property of the [VariantArguments]";

    private static readonly Dictionary<OperationKind, (string Construct, string Instead)> s_unsupported = new()
    {
        [OperationKind.AnonymousFunction] = ("A lambda", WriteMethod),
        [OperationKind.DelegateCreation] = ("A delegate", WriteMethod),
        [OperationKind.LocalFunction] = ("A local function", WriteMethod),
        [OperationKind.ObjectCreation] = ("'new'", NoHeap),
        [OperationKind.ArrayCreation] = ("An array", NoHeap),
        [OperationKind.CollectionExpression] = ("A collection", NoHeap),
        [OperationKind.AnonymousObjectCreation] = ("'new'", NoHeap),
        [OperationKind.ArrayElementReference] = ("An array", "use a ReadOnlySpan of the [VariantArguments]"),
        [OperationKind.With] = ("'with'", "pass on the values that are needed one by one"),
        [OperationKind.Tuple] = ("A tuple", "use a local for each value"),
        [OperationKind.DeconstructionAssignment] = ("A deconstruction", "use a local for each value"),
        [OperationKind.Throw] = (
            "An exception",
            "return a value for this case: false from a mask, float.NegativeInfinity from a transform"
        ),
        [OperationKind.Try] = ("'try'", "nothing throws in a kernel; leave it out"),
        [OperationKind.Lock] = ("'lock'", "a method of a variant changes nothing outside it; leave it out"),
        [OperationKind.Using] = ("'using'", "kernels own no resources; leave it out"),
        [OperationKind.UsingDeclaration] = ("'using'", "kernels own no resources; leave it out"),
        [OperationKind.Await] = ("'await'", "a method of a variant is computed where it is called"),
        [OperationKind.Branch] = ("'goto'", "use a loop with 'break' and 'continue', or a method that returns"),
        [OperationKind.YieldReturn] = ("'yield'", "return one value"),
        [OperationKind.YieldBreak] = ("'yield'", "return one value"),
        [OperationKind.SimpleAssignment] = ("An assignment inside an expression", "make it a statement of its own"),
        [OperationKind.CompoundAssignment] = ("An assignment inside an expression", "make it a statement of its own"),
        [OperationKind.Increment] = ("An increment inside an expression", "make it a statement of its own"),
        [OperationKind.Decrement] = ("A decrement inside an expression", "make it a statement of its own"),
        [OperationKind.AddressOf] = ("A pointer", "use a ReadOnlySpan of the [VariantArguments]"),
        [OperationKind.IsType] = ("A type test", "the types of a variant are known; leave it out"),
        [OperationKind.TypeOf] = ("'typeof'", "kernels have no types at run time"),
        [OperationKind.InterpolatedString] = ("A string", "kernels compute with numbers only"),
        [OperationKind.InstanceReference] = (
            "'this'",
            "kernels have no instance; make the member static, or a property of the [VariantArguments]"
        ),
        [OperationKind.ConditionalAccess] = ("'?.'", "nothing is null in a kernel"),
        [OperationKind.Coalesce] = ("'??'", "nothing is null in a kernel"),
        [OperationKind.Range] = ("A range", "pass the first index on instead"),
    };

    private static readonly Dictionary<SpecialType, string> s_types = new()
    {
        [SpecialType.System_Double] = "kernels compute in float: write 0.5f for 0.5, and MathF for Math",
        [SpecialType.System_Decimal] = "kernels compute in float: write 0.5f for 0.5m",
        [SpecialType.System_Int64] = "kernels compute in 32 bits; convert to int first, or both operands to uint",
        [SpecialType.System_UInt64] = "kernels compute in 32 bits; convert to uint first",
        [SpecialType.System_String] = "kernels compute with numbers only",
        [SpecialType.System_Char] = "kernels compute with numbers only; use int",
        [SpecialType.System_Int16] = "use int",
        [SpecialType.System_UInt16] = "use int",
        [SpecialType.System_SByte] = "use int",
        [SpecialType.System_Object] = "kernels compute with numbers only",
    };

    /// <summary>Whether an operation has a type that kernels know and is of a kind that may be.</summary>
    private bool IsSupported(IOperation operation) =>
        !s_unsupported.ContainsKey(operation.Kind)
        && operation.Kind is not (OperationKind.Invalid or OperationKind.ImplicitIndexerReference)
        && operation.Type is { TypeKind: not TypeKind.Error } type
        && (variant.Types.Declare(type) is not null || operation is IInvocationOperation or IFieldReferenceOperation);

    private static bool IsUnsupportedConstruct(IOperation operation) =>
        s_unsupported.ContainsKey(operation.Kind)
        || (operation is IConversionOperation { IsImplicit: true } conversion && IsUnsupportedConstruct(conversion.Operand));

    private void Unsupported(IOperation operation)
    {
        if (IsKnownAlready(operation))
        {
            variant.Problems.Broken();
            return;
        }

        switch (operation)
        {
            case IConversionOperation { IsImplicit: true } conversion when IsUnsupportedConstruct(conversion):
                Unsupported(conversion.Operand);
                return;
            case IForEachLoopOperation { Syntax: CommonForEachStatementSyntax syntax }:
                Location header = Location.Create(
                    syntax.SyntaxTree,
                    TextSpan.FromBounds(syntax.ForEachKeyword.SpanStart, syntax.CloseParenToken.Span.End)
                );
                Unsupported(header, "'foreach'", "write a for loop over the index: for (int i = 0; i < span.Length; i++)");
                return;
            case IImplicitIndexerReferenceOperation index:
                Unsupported(index.Argument.Syntax, "An index from the end or a range", "write span[span.Length - 1]");
                return;
            case IBinaryOperation { IsChecked: true }
            or IUnaryOperation { IsChecked: true }
            or IConversionOperation { IsChecked: true }
            or ICompoundAssignmentOperation { IsChecked: true }
            or IIncrementOrDecrementOperation { IsChecked: true }:
                Unsupported(operation.Syntax, "Checked arithmetic", "nothing throws in a kernel; write unchecked(...)");
                return;
            default:
                break;
        }

        if (s_unsupported.TryGetValue(operation.Kind, out (string Construct, string Instead) known))
        {
            Unsupported(operation.Syntax, known.Construct, known.Instead);
        }
        else if (operation.Type is { SpecialType: not SpecialType.System_Void } type && variant.Types.Declare(type) is null)
        {
            UnsupportedType(operation.Syntax, type);
        }
        else
        {
            Unsupported(operation.Syntax, "This", "docs/variants.md says what can; write it with locals, operators and calls");
        }
    }

    /// <summary>Whether the compiler reports something inside, or a local was reported where it is declared.</summary>
    private bool IsKnownAlready(IOperation operation) =>
        operation
            .DescendantsAndSelf()
            .Any(inner =>
                inner is IInvalidOperation
                || inner.Type is { TypeKind: TypeKind.Error }
                || (inner is ILocalReferenceOperation local && _reported.Contains(local.Local))
            );

    private void Unsupported(SyntaxNode syntax, string construct, string instead) => Unsupported(syntax.GetLocation(), construct, instead);

    private void Unsupported(Location location, string construct, string instead) =>
        variant.Problems.Report(Descriptors.VariantConstruct, location, construct, instead);

    private void UnsupportedType(SyntaxNode syntax, ITypeSymbol type)
    {
        if (type.TypeKind == TypeKind.Error)
        {
            variant.Problems.Broken();
            return;
        }

        string instead =
            s_types.TryGetValue(type.SpecialType, out string? known) ? known
            : type.TypeKind == TypeKind.Enum ? "convert it to int, or use constants"
            : type.TypeKind == TypeKind.Array ? "use a ReadOnlySpan of the [VariantArguments]"
            : type.TypeKind == TypeKind.Pointer ? "use a ReadOnlySpan of the [VariantArguments]"
            : VariantTypes.IsContext(type) || variant.Types.IsArguments(type) ? "read it through the parameter, where it is needed"
            : "kernels have int, uint, float, bool, and ReadOnlySpan of those and of byte";
        variant.Problems.Report(Descriptors.VariantType, syntax.GetLocation(), type.ToDisplayString(), instead);
    }
}
