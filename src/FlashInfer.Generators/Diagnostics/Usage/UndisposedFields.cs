using System.Collections.Concurrent;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Diagnostics;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>FI0104 for fields: a class that makes something, keeps it to itself and nowhere disposes it.</summary>
internal static class UndisposedFields
{
    public static void Register(SymbolStartAnalysisContext context, KnownTypes types)
    {
        INamedTypeSymbol owner = (INamedTypeSymbol)context.Symbol;
        ConcurrentDictionary<IFieldSymbol, bool> made = new(SymbolEqualityComparer.Default);
        ConcurrentDictionary<IFieldSymbol, bool> handled = new(SymbolEqualityComparer.Default);
        bool any = false;
        foreach (ISymbol member in owner.GetMembers())
        {
            any |= member is IFieldSymbol field && IsCandidate(field, owner, types);
        }

        if (!any)
        {
            return;
        }

        context.RegisterOperationAction(
            context =>
            {
                IFieldReferenceOperation reference = (IFieldReferenceOperation)context.Operation;
                if (!IsCandidate(reference.Field, owner, types))
                {
                    return;
                }

                if (reference.Parent is ISimpleAssignmentOperation assignment && ReferenceEquals(assignment.Target, reference))
                {
                    Note(assignment.Value, reference.Field);
                }
                else if (Undisposed.UseOf(reference, types) != Undisposed.Use.None)
                {
                    handled[reference.Field] = true;
                }
            },
            OperationKind.FieldReference
        );
        context.RegisterOperationAction(
            context =>
            {
                IFieldInitializerOperation initializer = (IFieldInitializerOperation)context.Operation;
                foreach (IFieldSymbol field in initializer.InitializedFields)
                {
                    if (IsCandidate(field, owner, types))
                    {
                        Note(initializer.Value, field);
                    }
                }
            },
            OperationKind.FieldInitializer
        );
        context.RegisterSymbolEndAction(context =>
        {
            foreach (IFieldSymbol field in made.Keys)
            {
                if (!handled.ContainsKey(field))
                {
                    context.ReportDiagnostic(
                        Diagnostic.Create(
                            Descriptors.NotDisposed,
                            field.Locations[0],
                            field.Name,
                            $"let {owner.Name} implement IDisposable and dispose it there"
                        )
                    );
                }
            }
        });

        void Note(IOperation value, IFieldSymbol field)
        {
            if (value.Unwrap() is { } creation && Undisposed.Creates(creation, types))
            {
                made[field] = true;
            }
        }
    }

    // What others can see, others may dispose; a static field lives as long as the program.
    private static bool IsCandidate(IFieldSymbol field, INamedTypeSymbol owner, KnownTypes types) =>
        field is { IsStatic: false, DeclaredAccessibility: Accessibility.Private, IsImplicitlyDeclared: false }
        && SymbolEqualityComparer.Default.Equals(field.ContainingType, owner)
        && types.OwnsMemory(field.Type);
}
