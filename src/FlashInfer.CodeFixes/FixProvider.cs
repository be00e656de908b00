using System.Collections.Generic;
using System.Collections.Immutable;
using System.Threading;
using System.Threading.Tasks;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CodeActions;
using Microsoft.CodeAnalysis.CodeFixes;

namespace FlashInfer.CodeFixes;

/// <summary>A fix that changes one document, for one diagnostic or for all of a kind at once: nothing is changed twice.</summary>
public abstract class FixProvider : CodeFixProvider
{
    /// <inheritdoc/>
    public sealed override FixAllProvider GetFixAllProvider() =>
        FixAllProvider.Create(
            async (context, document, diagnostics) =>
                context.CodeActionEquivalenceKey is { } key
                    ? await ApplyAsync(document, diagnostics, key, context.CancellationToken).ConfigureAwait(false)
                    : document
        );

    /// <inheritdoc/>
    public sealed override async Task RegisterCodeFixesAsync(CodeFixContext context)
    {
        SemanticModel model = await ModelAsync(context.Document, context.CancellationToken).ConfigureAwait(false);
        foreach (Diagnostic diagnostic in context.Diagnostics)
        {
            foreach ((string title, string key) in Fixes(model, diagnostic))
            {
                context.RegisterCodeFix(
                    CodeAction.Create(title, token => ApplyAsync(context.Document, ImmutableArray.Create(diagnostic), key, token), key),
                    diagnostic
                );
            }
        }
    }

    /// <summary>What is offered for a diagnostic, best first. Fixes of one key are applied together by fix-all.</summary>
    protected abstract IEnumerable<(string Title, string Key)> Fixes(SemanticModel model, Diagnostic diagnostic);

    /// <summary>The document's root after the fixes of one key.</summary>
    protected abstract SyntaxNode Apply(SemanticModel model, ImmutableArray<Diagnostic> diagnostics, string key);

    private static async Task<SemanticModel> ModelAsync(Document document, CancellationToken cancellationToken) =>
        (await document.GetSemanticModelAsync(cancellationToken).ConfigureAwait(false))!;

    private async Task<Document> ApplyAsync(
        Document document,
        ImmutableArray<Diagnostic> diagnostics,
        string key,
        CancellationToken cancellationToken
    ) => document.WithSyntaxRoot(Apply(await ModelAsync(document, cancellationToken).ConfigureAwait(false), diagnostics, key));
}
