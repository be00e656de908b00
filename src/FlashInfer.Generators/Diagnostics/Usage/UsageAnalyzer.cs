using System;
using System.Collections.Immutable;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Diagnostics;
using Microsoft.CodeAnalysis.FlowAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// Reports code that compiles and is wrong: what costs days because it shows as slowness, as memory that grows, as numbers that are
/// sometimes off, or on the GPU only. A rule that is not certain says nothing.
/// </summary>
[DiagnosticAnalyzer(LanguageNames.CSharp)]
public sealed class UsageAnalyzer : DiagnosticAnalyzer
{
    /// <inheritdoc/>
    public override ImmutableArray<DiagnosticDescriptor> SupportedDiagnostics => Descriptors.Usage;

    /// <inheritdoc/>
    public override void Initialize(AnalysisContext context)
    {
        context.ConfigureGeneratedCodeAnalysis(GeneratedCodeAnalysisFlags.None);
        context.EnableConcurrentExecution();
        context.RegisterCompilationStartAction(static context =>
        {
            if (KnownTypes.Of(context.Compilation) is { } types)
            {
                context.RegisterOperationBlockAction(context => AnalyzeMember(context, types));
                context.RegisterSymbolStartAction(context => UndisposedFields.Register(context, types), SymbolKind.NamedType);
            }
        });
    }

    private static void AnalyzeMember(OperationBlockAnalysisContext context, KnownTypes types)
    {
        foreach (IOperation block in context.OperationBlocks)
        {
            if (!Uses(block, types))
            {
                continue;
            }

            PlanInLayerLoop.Check(block, types, context.ReportDiagnostic);
            Undisposed.Check(block, types, context.ReportDiagnostic);
            LseBases.Check(block, types, context.ReportDiagnostic);
            if (block is IBlockOperation)
            {
                AnalyzeFunction(context.GetControlFlowGraph(block), block, types, context.ReportDiagnostic);
            }
        }
    }

    /// <summary>The rules that look at paths, for a function and for each function inside it.</summary>
    private static void AnalyzeFunction(ControlFlowGraph graph, IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        Paths paths = new(graph);
        RunWithoutPlan.Check(paths, root, types, report);
        ForwardLeftOpen.Check(paths, root, types, report);
        StreamOrder.Check(paths, root, types, report);
        CaptureCalls.Check(paths, root, types, report);
        foreach (IMethodSymbol local in graph.LocalFunctions)
        {
            AnalyzeFunction(graph.GetLocalFunctionControlFlowGraph(local), root, types, report);
        }

        foreach (IFlowAnonymousFunctionOperation lambda in paths.Operations().OfType<IFlowAnonymousFunctionOperation>())
        {
            AnalyzeFunction(graph.GetAnonymousFunctionControlFlowGraph(lambda), root, types, report);
        }
    }

    // Most members of a program never touch this library.
    private static bool Uses(IOperation block, KnownTypes types)
    {
        foreach (IOperation operation in block.Descendants())
        {
            if (
                operation is IInvocationOperation call && types.IsOurs(call.TargetMethod)
                || operation is IObjectCreationOperation { Type: var type } && types.OwnsMemory(type)
            )
            {
                return true;
            }
        }

        return false;
    }
}
