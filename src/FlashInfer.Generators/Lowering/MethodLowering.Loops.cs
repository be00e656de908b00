using System.Collections.Generic;
using System.Globalization;
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
        Interval start = Start(loop, bound);
        Interval end = Lower(bound.End).Range;
        if (bound.NeverEnds(end))
        {
            Unbounded(loop);
            return;
        }

        // Where C# would wrap around and go on for ever, the loop ends.
        string? goesOn = bound.MayWrap(start, end) ? _names.Unused("goes_on") : null;
        if (goesOn is not null)
        {
            _text.Line($"bool {goesOn} = true;");
        }

        string before = Joined(loop.Before.SelectMany(Before));
        _ranges[bound.Variable] = bound.AtCondition(start, end);
        Expression condition = Lower(loop.Condition!);
        _ranges[bound.Variable] = bound.InBody(start, end);
        string bottom = Joined(loop.AtLoopBottom.Select(operation => AtBottom(operation, bound, goesOn)));
        _text.Line($"for ({before}; {(goesOn is null ? condition.Text : $"{goesOn} && {condition.As(Precedence.And)}")}; {bottom}) {{");
        Nested(loop.Body);
        _text.Line("}");
        _ranges.Remove(bound.Variable);
    }

    private static string Joined(IEnumerable<string> texts) => string.Join(", ", texts.Where(static text => text.Length > 0));

    /// <summary>Where the loop's variable starts: anywhere when another statement set it.</summary>
    private Interval Start(IForLoopOperation loop, LoopBound bound)
    {
        IVariableDeclaratorOperation? declarator = loop
            .Before.OfType<IVariableDeclarationGroupOperation>()
            .SelectMany(Declarators)
            .FirstOrDefault(declarator => SymbolEqualityComparer.Default.Equals(declarator.Symbol, bound.Variable));
        return declarator?.GetVariableInitializer() is { } initializer ? Lower(initializer.Value).Range : Interval.Of(bound.Type);
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

    /// <summary>What stands at a loop's bottom; the step that may wrap around says whether it has not.</summary>
    private string AtBottom(IOperation operation, LoopBound bound, string? goesOn)
    {
        string text = AtBottom(operation);
        return goesOn is not null && bound.IsStep(operation)
            ? $"{goesOn} = {Operators.CSharp}step({_names.Of(bound.Variable.Name)}, {bound.Step.ToString(CultureInfo.InvariantCulture)})"
            : text;
    }

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
