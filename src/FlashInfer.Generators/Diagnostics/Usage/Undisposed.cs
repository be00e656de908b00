using System;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0104: what a function makes and neither disposes nor gives away, so that nobody can dispose it; and FI0105: a tensor that it makes in
/// every pass of a loop that runs attention.
/// </summary>
internal static class Undisposed
{
    /// <summary>What becomes of a local.</summary>
    [Flags]
    internal enum Use
    {
        None = 0,
        Disposed = 1,
        Escapes = 2,
    }

    public static void Check(IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        foreach (IOperation creation in root.Descendants().Where(o => Creates(o, types)))
        {
            (ISymbol? symbol, Use use) = Fate(creation, root, types);
            string name = symbol?.Name ?? Describe(creation);
            if (use == Use.None)
            {
                string what = types.IsDevice(creation.Type)
                    ? "dispose it when the program is done with it, with 'using' for example"
                    : "dispose it, with 'using' for example, or it is held until the device is disposed";
                report(Diagnostic.Create(Descriptors.NotDisposed, creation.Syntax.GetLocation(), name, what));
            }

            if (!use.HasFlag(Use.Escapes) && types.IsTensor(creation.Type) && IsPerStep(creation, types))
            {
                report(Diagnostic.Create(Descriptors.AllocationPerStep, creation.Syntax.GetLocation(), name));
            }
        }
    }

    /// <summary>Whether an operation makes something that has to be disposed.</summary>
    public static bool Creates(IOperation operation, KnownTypes types) =>
        operation switch
        {
            IObjectCreationOperation creation => types.IsCache(creation.Type)
                || types.IsWrapper(creation.Type)
                || types.IsSingle(creation.Type),
            // Rows are a view of memory that somebody else owns.
            IInvocationOperation { TargetMethod.Name: not "Rows" } call => types.IsOurs(call.TargetMethod)
                && (types.IsTensor(call.Type) || types.IsDevice(call.Type)),
            _ => false,
        };

    /// <summary>What a local is used for, over all of its references.</summary>
    public static Use UsesOf(ILocalSymbol local, IOperation root, KnownTypes types)
    {
        Use uses = Use.None;
        foreach (IOperation operation in root.Descendants())
        {
            if (operation is ILocalReferenceOperation reference && SymbolEqualityComparer.Default.Equals(reference.Local, local))
            {
                uses |= UseOf(reference, types) | (reference.IsCaptured(local) ? Use.Escapes : Use.None);
            }
            else if (
                operation is IVariableDeclaratorOperation declarator
                && SymbolEqualityComparer.Default.Equals(declarator.Symbol, local)
            )
            {
                uses |= IsUsing(declarator) ? Use.Disposed : Use.None;
            }
        }

        return uses;
    }

    /// <summary>What one reference does with the object that it refers to.</summary>
    public static Use UseOf(IOperation reference, KnownTypes types)
    {
        IOperation child = reference;
        for (IOperation? parent = reference.Parent; parent is not null; child = parent, parent = parent.Parent)
        {
            switch (parent)
            {
                case IConversionOperation:
                case IParenthesizedOperation:
                    continue;
                case IConditionalAccessOperation access:
                    return access.WhenNotNull.DescendantsAndSelf().Any(IsDispose) ? Use.Disposed : Use.None;
                case IInvocationOperation call when ReferenceEquals(call.Instance, child):
                    return IsDispose(call) ? Use.Disposed
                        : types.IsOurs(call.TargetMethod) ? Use.None
                        : Use.Escapes;
                case IArgumentOperation { Parent: IInvocationOperation call }:
                    return types.IsOurs(call.TargetMethod) ? Use.None : Use.Escapes;
                case IArgumentOperation { Parent: IObjectCreationOperation { Type: var type } }:
                    return types.OwnsMemory(type) ? Use.None : Use.Escapes;
                case IMemberReferenceOperation:
                case IBinaryOperation:
                case IIsPatternOperation:
                case IInterpolationOperation:
                    return Use.None;
                case IAssignmentOperation assignment when ReferenceEquals(assignment.Target, child):
                    return Use.None;
                case IUsingOperation:
                    return Use.Disposed;
                default:
                    return Use.Escapes;
            }
        }

        return Use.Escapes;
    }

    /// <summary>Where a new object goes: a local, if it is kept in one, and what becomes of it.</summary>
    private static (ISymbol? Symbol, Use Use) Fate(IOperation creation, IOperation root, KnownTypes types)
    {
        IOperation child = creation;
        for (IOperation? parent = creation.Parent; parent is not null; child = parent, parent = parent.Parent)
        {
            switch (parent)
            {
                case IConversionOperation:
                case IParenthesizedOperation:
                    continue;
                case IVariableInitializerOperation { Parent: IVariableDeclaratorOperation declarator }:
                    return (declarator.Symbol, UsesOf(declarator.Symbol, root, types));
                case ISimpleAssignmentOperation { Target: ILocalReferenceOperation local }:
                    return (local.Local, UsesOf(local.Local, root, types));
                case ISimpleAssignmentOperation { Target: IDiscardOperation }:
                case IExpressionStatementOperation:
                    return (null, Use.None);
                // device.Allocate(...).CopyFrom(...), or decode.Run(layer, query, LlamaAttention.AllocateOutput(...)): nobody has it.
                case IInvocationOperation call when ReferenceEquals(call.Instance, child):
                    return (
                        null,
                        IsDispose(call) ? Use.Disposed
                        : types.IsOurs(call.TargetMethod) && types.IsTensor(creation.Type) ? Use.None
                        : Use.Escapes
                    );
                case IArgumentOperation { Parent: IInvocationOperation call }:
                    return (null, types.IsOurs(call.TargetMethod) && types.IsTensor(creation.Type) ? Use.None : Use.Escapes);
                case IPropertyReferenceOperation:
                    return (null, types.IsTensor(creation.Type) ? Use.None : Use.Escapes);
                case IUsingOperation:
                    return (null, Use.Disposed);
                default:
                    return (null, Use.Escapes);
            }
        }

        return (null, Use.Escapes);
    }

    // In each pass, beside a plan or a run of a wrapper that is older than the loop: in a loop over configurations or tests it is not.
    private static bool IsPerStep(IOperation creation, KnownTypes types) =>
        creation.Loop() is { } loop
        && creation.IsInEveryPass(loop)
        && loop.Body.Descendants()
            .OfType<IInvocationOperation>()
            .Any(call =>
                call.TargetMethod.Name is "Plan" or "Run"
                && types.IsWrapper(call.Instance?.Type)
                && call.Instance.Symbol() is { } wrapper
                && !loop.Varies(wrapper)
            );

    private static bool IsDispose(IOperation operation) => operation is IInvocationOperation { TargetMethod.Name: "Dispose" };

    private static bool IsUsing(IOperation declarator)
    {
        for (IOperation? o = declarator.Parent; o is not null and not IBlockOperation; o = o.Parent)
        {
            if (o is IUsingOperation or IUsingDeclarationOperation)
            {
                return true;
            }
        }

        return false;
    }

    private static string Describe(IOperation creation) =>
        creation switch
        {
            IInvocationOperation call => $"The result of {call.TargetMethod.Name}",
            _ => $"The new {creation.Type?.Name}",
        };
}
