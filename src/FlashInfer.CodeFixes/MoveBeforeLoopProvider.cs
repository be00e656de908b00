using System.Collections.Generic;
using System.Collections.Immutable;
using System.Composition;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CodeFixes;
using Microsoft.CodeAnalysis.CSharp;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Formatting;

namespace FlashInfer.CodeFixes;

/// <summary>Moves a plan in front of the loop over the layers.</summary>
[ExportCodeFixProvider(LanguageNames.CSharp, Name = nameof(MoveBeforeLoopProvider))]
[Shared]
public sealed class MoveBeforeLoopProvider : FixProvider
{
    private const string Title = "Plan once, before the loop";

    /// <inheritdoc/>
    public override ImmutableArray<string> FixableDiagnosticIds { get; } = ImmutableArray.Create(Descriptors.PlanInLayerLoop.Id);

    /// <inheritdoc/>
    protected override IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic) =>
        Find(model, diagnostic) is null ? [] : [(Title, Title)];

    /// <inheritdoc/>
    protected override SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key)
    {
        (StatementSyntax Plan, SyntaxNode Loop)[] moves = diagnostics
            .Select(diagnostic => Find(model, diagnostic))
            .Where(static found => found is not null)
            .Select(static found => found!.Value)
            .ToArray();
        SyntaxNode root = model.SyntaxTree.GetRoot();
        root = root.TrackNodes(moves.SelectMany(static move => new[] { move.Plan, move.Loop }));
        foreach ((StatementSyntax plan, SyntaxNode loop) in moves)
        {
            StatementSyntax moved = plan.WithLeadingTrivia()
                .WithTrailingTrivia(SyntaxFactory.ElasticLineFeed)
                .WithAdditionalAnnotations(Formatter.Annotation);
            root = root.RemoveNode(root.GetCurrentNode(plan)!, SyntaxRemoveOptions.KeepNoTrivia)!;
            root = root.InsertNodesBefore(
                root.GetCurrentNode(loop)!,
                [loop is GlobalStatementSyntax ? SyntaxFactory.GlobalStatement(moved) : moved]
            );
        }

        return root;
    }

    // A statement of the loop's own block, and a loop that another statement can be put in front of.
    private static (StatementSyntax Plan, SyntaxNode Loop)? Find(SemanticModel model, Diagnostic diagnostic) =>
        model.SyntaxTree.GetRoot().FindNode(diagnostic.Location.SourceSpan).FirstAncestorOrSelf<ExpressionStatementSyntax>()
            is { Parent: BlockSyntax { Parent: StatementSyntax loop } } plan
        && loop is ForStatementSyntax or CommonForEachStatementSyntax or WhileStatementSyntax or DoStatementSyntax
            ? loop.Parent switch
            {
                BlockSyntax => (plan, loop),
                GlobalStatementSyntax statement => (plan, statement),
                _ => null,
            }
            : null;
}
