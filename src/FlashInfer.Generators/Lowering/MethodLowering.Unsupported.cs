using System.Collections.Generic;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Operations;

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
        [OperationKind.Labeled] = ("A label", "use a loop with 'break' and 'continue', or a method that returns"),
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
        [OperationKind.ImplicitIndexerReference] = ("An index from the end or a range", "write span[span.Length - 1]"),
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
        && operation.Kind != OperationKind.Invalid
        && operation.Type is { TypeKind: not TypeKind.Error } type
        && (variant.Types.Declare(type) is not null || operation is IInvocationOperation or IFieldReferenceOperation);

    private void Unsupported(IOperation operation)
    {
        if (operation is IInvalidOperation || operation.Type is { TypeKind: TypeKind.Error })
        {
            variant.Problems.Broken();
        }
        else if (operation is IForEachLoopOperation loop)
        {
            Location header = loop.Syntax is CommonForEachStatementSyntax syntax
                ? Location.Create(
                    syntax.SyntaxTree,
                    Microsoft.CodeAnalysis.Text.TextSpan.FromBounds(syntax.ForEachKeyword.SpanStart, syntax.CloseParenToken.Span.End)
                )
                : loop.Syntax.GetLocation();
            Unsupported(header, "'foreach'", "write a for loop over the index: for (int i = 0; i < span.Length; i++)");
        }
        else if (
            operation is IConversionOperation { OperatorMethod: null, IsChecked: false } conversion
            && Scalars.Of(operation.Type) == Scalar.None
            && !IsSupported(conversion.Operand)
            && conversion.IsImplicit
        )
        {
            Unsupported(conversion.Operand);
        }
        else if (s_unsupported.TryGetValue(operation.Kind, out (string Construct, string Instead) known))
        {
            Unsupported(operation.Syntax, known.Construct, known.Instead);
        }
        else if (operation.Type is { } type && variant.Types.Declare(type) is null && type.SpecialType != SpecialType.System_Void)
        {
            UnsupportedType(operation.Syntax, type);
        }
        else if (
            operation
            is IBinaryOperation { IsChecked: true }
                or IUnaryOperation { IsChecked: true }
                or IConversionOperation { IsChecked: true }
                or ICompoundAssignmentOperation { IsChecked: true }
                or IIncrementOrDecrementOperation { IsChecked: true }
        )
        {
            Unsupported(operation.Syntax, "Checked arithmetic", "nothing throws in a kernel; write unchecked(...)");
        }
        else
        {
            Unsupported(operation.Syntax, "This", "docs/variants.md says what is; write it with locals, operators and calls");
        }
    }

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
            : variant.Types.IsContext(type) || variant.Types.IsArguments(type) ? "read it through the parameter, where it is needed"
            : "kernels have int, uint, float, bool, and ReadOnlySpan of those and of byte";
        variant.Problems.Report(Descriptors.VariantType, syntax.GetLocation(), type.ToDisplayString(), instead);
    }
}
