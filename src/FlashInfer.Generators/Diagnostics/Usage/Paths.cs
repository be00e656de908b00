using System;
using System.Collections.Generic;
using System.Collections.Immutable;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.FlowAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>What a rule makes of the operations along a path. States are its own numbers; it starts with 0, "nothing is known".</summary>
internal interface IPathRule
{
    /// <summary>The state after an operation.</summary>
    int Step(IOperation operation, int state);

    /// <summary>The state once a condition has turned out true or false.</summary>
    int Decide(IOperation condition, bool value, int state);

    /// <summary>The function is left by a return or at its end.</summary>
    /// <param name="state">The state there.</param>
    /// <param name="decision">The last condition on the way and how it turned out; null when there was none.</param>
    void Leave(int state, (IOperation Condition, bool Value)? decision);
}

/// <summary>
/// The paths through one function, as the compiler's control flow graph has them. A condition that was decided on a path stays decided on
/// it, so that <c>if (any) Plan(); ... if (any) Run();</c> is two paths and not four: until something that it mentions is assigned.
/// Exceptions are not followed: what they leave open is for the caller to clean up, or for a handler, which is not entered.
/// </summary>
internal sealed class Paths
{
    // A function with more is not judged at all.
    private const int MaxVisits = 4000;

    private readonly Dictionary<CaptureId, IOperation?> _captures = new();

    public Paths(ControlFlowGraph graph)
    {
        Graph = graph;
        foreach (IFlowCaptureOperation capture in Operations().OfType<IFlowCaptureOperation>())
        {
            // Captured in two places (a ? b : c): no single value.
            _captures[capture.Id] = _captures.ContainsKey(capture.Id) ? null : capture.Value;
        }
    }

    public ControlFlowGraph Graph { get; }

    /// <summary>Every operation of the function, without those of functions inside it.</summary>
    public IEnumerable<IOperation> Operations() =>
        Graph
            .Blocks.SelectMany(static block => block.BranchValue is { } value ? block.Operations.Add(value) : block.Operations)
            .SelectMany(static o => o.InOrder());

    /// <summary>As <see cref="Usage.Operations.Symbol"/>, through the graph's own temporaries.</summary>
    public ISymbol? Symbol(IOperation? operation)
    {
        operation = operation.Unwrap();
        return operation is IFlowCaptureReferenceOperation reference
            ? _captures.TryGetValue(reference.Id, out IOperation? value)
                ? Symbol(value)
                : null
            : operation.Symbol();
    }

    /// <summary>Walks all paths.</summary>
    /// <returns>False when there are too many: what the rule has noted by then says nothing.</returns>
    public bool Walk(IPathRule rule)
    {
        HashSet<(int Block, int State, string Facts)> seen = new();
        Stack<(BasicBlock Block, int State, Facts Facts, (IOperation, bool)? Decision)> open = new();
        open.Push((Graph.Blocks[0], 0, Facts.None, null));
        while (open.Count > 0)
        {
            (BasicBlock block, int state, Facts facts, (IOperation, bool)? decision) = open.Pop();
            if (!seen.Add((block.Ordinal, state, facts.Text)))
            {
                continue;
            }

            if (seen.Count > MaxVisits)
            {
                return false;
            }

            if (block.Kind == BasicBlockKind.Exit)
            {
                rule.Leave(state, decision);
                continue;
            }

            foreach (IOperation operation in block.Operations.SelectMany(static o => o.InOrder()))
            {
                state = rule.Step(operation, state);
                facts = facts.After(operation);
            }

            foreach (IOperation operation in block.BranchValue?.InOrder() ?? Array.Empty<IOperation>())
            {
                state = rule.Step(operation, state);
                facts = facts.After(operation);
            }

            if (block.ConditionKind == ControlFlowConditionKind.None || block.BranchValue is not { } condition)
            {
                Follow(block.FallThroughSuccessor, state, facts, decision);
                continue;
            }

            // What a loop asks before each pass changes: it is no fact about what follows.
            bool isLoop = block.Predecessors.Any(branch => branch.Source.Ordinal >= block.Ordinal);
            bool taken = block.ConditionKind == ControlFlowConditionKind.WhenTrue;
            foreach (bool value in new[] { true, false })
            {
                if (facts.With(condition, value, isLoop) is { } known)
                {
                    ControlFlowBranch? branch = value == taken ? block.ConditionalSuccessor : block.FallThroughSuccessor;
                    Follow(branch, rule.Decide(condition, value, state), known, (condition, value));
                }
            }
        }

        return true;

        void Follow(ControlFlowBranch? branch, int state, Facts facts, (IOperation, bool)? decision)
        {
            if (
                branch?.Destination is not { } destination
                || branch.Semantics is ControlFlowBranchSemantics.Throw or ControlFlowBranchSemantics.Rethrow
            )
            {
                return;
            }

            foreach (ControlFlowRegion region in branch.FinallyRegions)
            {
                for (int i = region.FirstBlockOrdinal; i <= region.LastBlockOrdinal; i++)
                {
                    foreach (IOperation operation in Graph.Blocks[i].Operations.SelectMany(static o => o.InOrder()))
                    {
                        state = rule.Step(operation, state);
                    }
                }
            }

            open.Push((destination, state, facts, decision));
        }
    }

    /// <summary>How conditions turned out on a path so far.</summary>
    private sealed class Facts
    {
        public static readonly Facts None = new(ImmutableSortedDictionary.Create<string, bool>(StringComparer.Ordinal));

        private readonly ImmutableSortedDictionary<string, bool> _facts;

        private Facts(ImmutableSortedDictionary<string, bool> facts)
        {
            _facts = facts;
            Text = string.Join(";", facts.Select(static fact => (fact.Value ? "" : "!") + fact.Key));
        }

        /// <summary>All of them in one string: equal facts, equal strings.</summary>
        public string Text { get; }

        /// <summary>With one more; null when it contradicts the others.</summary>
        public Facts? With(IOperation condition, bool value, bool isLoop)
        {
            if (condition.ConstantValue is { HasValue: true, Value: bool constant })
            {
                return constant == value ? this : null;
            }

            if (!IsPure(condition))
            {
                return this;
            }

            string text = condition.Syntax.ToString();
            if (_facts.TryGetValue(text, out bool known))
            {
                return known == value ? this : null;
            }

            return isLoop ? this : new Facts(_facts.Add(text, value));
        }

        /// <summary>Without those that an operation may have changed.</summary>
        public Facts After(IOperation operation)
        {
            if (operation.AssignmentTarget()?.Unwrap()?.Reference()?.Name is not { } name)
            {
                return this;
            }

            ImmutableSortedDictionary<string, bool> facts = _facts.RemoveRange(_facts.Keys.Where(text => HasWord(text, name)));
            if (
                operation is ISimpleAssignmentOperation
                {
                    Target: ILocalReferenceOperation,
                    Value.ConstantValue: { HasValue: true, Value: bool value }
                }
            )
            {
                facts = facts.SetItem(name, value);
            }

            return facts == _facts ? this : new Facts(facts);
        }

        // Locals, fields, properties and arithmetic: asked twice, they answer alike. A call may not.
        private static bool IsPure(IOperation condition) =>
            condition
                .DescendantsAndSelf()
                .All(static o =>
                    o
                        is ILocalReferenceOperation
                            or IParameterReferenceOperation
                            or IFieldReferenceOperation
                            or IPropertyReferenceOperation
                            or IInstanceReferenceOperation
                            or ILiteralOperation
                            or IBinaryOperation
                            or IUnaryOperation
                            or IConversionOperation
                            or IIsPatternOperation
                            or IIsNullOperation
                            or IPatternOperation
                );

        private static bool HasWord(string text, string word)
        {
            for (int i = text.IndexOf(word, StringComparison.Ordinal); i >= 0; i = text.IndexOf(word, i + 1, StringComparison.Ordinal))
            {
                int end = i + word.Length;
                if ((i == 0 || !IsWordPart(text[i - 1])) && (end == text.Length || !IsWordPart(text[end])))
                {
                    return true;
                }
            }

            return false;

            static bool IsWordPart(char c) => char.IsLetterOrDigit(c) || c == '_';
        }
    }
}
