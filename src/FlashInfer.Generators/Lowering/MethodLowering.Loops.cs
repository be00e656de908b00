using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Diagnostics;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.CSharp.Syntax;
using Microsoft.CodeAnalysis.Operations;
using Microsoft.CodeAnalysis.Text;

namespace FlashInfer.Generators.Lowering;

/// <content>
/// Loops. A loop that does not end hangs the GPU and every program on it, so only loops with an end in sight are lowered: <c>for</c> with
/// a variable that goes by a constant step towards something that the loop does not change.
/// </content>
internal sealed partial class MethodLowering
{
    private void For(IForLoopOperation loop)
    {
        if (LoopBound.Of(loop) is not { } bound)
        {
            Unbounded(loop);
            return;
        }

        // Before the range of the variable is known, which depends on both.
        Interval? start = Start(loop, bound.Variable);
        Interval end = Lower(bound.End).Range;
        if (bound.NeverEnds(end))
        {
            Unbounded(loop);
            return;
        }

        string before = string.Join(", ", loop.Before.SelectMany(Before).Where(static text => text.Length > 0));
        if (start is { } first && bound.Range(first, end) is { } range)
        {
            _ranges[bound.Variable] = range.AtCondition;
            string plainCondition = Lower(loop.Condition!).Text;
            _ranges[bound.Variable] = range.InBody;
            Loop(plainCondition);
            _ranges.Remove(bound.Variable);
        }
        else
        {
            Loop(Lower(loop.Condition!).Text);
        }

        void Loop(string condition)
        {
            string bottom = string.Join(", ", loop.AtLoopBottom.Select(AtBottom).Where(static text => text.Length > 0));
            _text.Line($"for ({before}; {condition}; {bottom}) {{");
            Nested(loop.Body);
            _text.Line("}");
        }
    }

    /// <summary>Where the loop's variable starts; null when another statement set it.</summary>
    private Interval? Start(IForLoopOperation loop, ISymbol variable)
    {
        IVariableDeclaratorOperation? declarator = loop
            .Before.OfType<IVariableDeclarationGroupOperation>()
            .SelectMany(Declarators)
            .FirstOrDefault(declarator => SymbolEqualityComparer.Default.Equals(declarator.Symbol, variable));
        return declarator?.GetVariableInitializer() is { } initializer ? Lower(initializer.Value).Range : null;
    }

    private IEnumerable<string> Before(IOperation operation)
    {
        if (operation is not IVariableDeclarationGroupOperation declarations)
        {
            yield return AtBottom(operation);
            yield break;
        }

        bool isFirst = true;
        foreach (IVariableDeclaratorOperation declarator in Declarators(declarations))
        {
            if (Type(declarator, declarator.Symbol) is not { } type)
            {
                continue;
            }

            string value = declarator.GetVariableInitializer() is { } initializer ? $" = {Lower(initializer.Value).Text}" : "";
            yield return (isFirst ? type + " " : "") + _names.Of(declarator.Symbol.Name) + value;
            isFirst = false;
        }
    }

    private string AtBottom(IOperation operation) =>
        Assignment(operation is IExpressionStatementOperation statement ? statement.Operation : operation);

    private void Unbounded(ILoopOperation loop)
    {
        (SyntaxToken first, SyntaxToken last) = loop.Syntax switch
        {
            ForStatementSyntax syntax => (syntax.ForKeyword, syntax.CloseParenToken),
            WhileStatementSyntax syntax => (syntax.WhileKeyword, syntax.CloseParenToken),
            DoStatementSyntax syntax => (syntax.DoKeyword, syntax.DoKeyword),
            var syntax => (syntax.GetFirstToken(), syntax.GetFirstToken()),
        };
        variant.Problems.Report(
            Descriptors.VariantLoop,
            Location.Create(loop.Syntax.SyntaxTree, TextSpan.FromBounds(first.SpanStart, last.Span.End)),
            first.ValueText
        );
    }
}
