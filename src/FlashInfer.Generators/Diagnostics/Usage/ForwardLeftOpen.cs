using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0103: a forward that one path of a function closes and another does not, or that nobody can close since the sequence never leaves
/// the function. A function that only begins forwards, for another to end them, is none of it.
/// </summary>
internal static class ForwardLeftOpen
{
    public static void Check(Paths paths, IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        IEnumerable<ISymbol> begun = paths
            .Operations()
            .OfType<IInvocationOperation>()
            .Where(call => IsBegin(call, types))
            .SelectMany(call => Sequences.In(Sequences.Argument(call), paths))
            .Distinct<ISymbol>(SymbolEqualityComparer.Default);
        foreach (ISymbol sequence in begun)
        {
            if (Sequences.Escapes(sequence, root, types))
            {
                continue;
            }

            Rule rule = new(sequence, paths, types);
            if (paths.Walk(rule) && !rule.IsUncertain && (rule.IsClosedSomewhere || IsMadeHere(sequence, root)))
            {
                foreach (KeyValuePair<IOperation, string> found in rule.Found)
                {
                    report(Diagnostic.Create(Descriptors.ForwardLeftOpen, found.Key.Syntax.GetLocation(), sequence.Name, found.Value));
                }
            }
        }
    }

    private static bool IsBegin(IInvocationOperation call, KnownTypes types) =>
        call.TargetMethod.Name is "BeginForward" or "TryBeginForward" && types.IsCache(call.Instance?.Type);

    private static bool IsMadeHere(ISymbol sequence, IOperation root) =>
        sequence is ILocalSymbol
        && root.Descendants()
            .Any(o =>
                o is IVariableDeclaratorOperation { Initializer.Value: var value } declarator
                && SymbolEqualityComparer.Default.Equals(declarator.Symbol, sequence)
                && IsNew(value)
            );

    // cache.NewSequence(), or a list of such.
    private static bool IsNew(IOperation? value) =>
        value.Unwrap() switch
        {
            IInvocationOperation call => call.TargetMethod.Name == "NewSequence",
            ICollectionExpressionOperation collection => collection.Elements.All(IsNew),
            IArrayCreationOperation { Initializer: { } initializer } => initializer.ElementValues.All(IsNew),
            _ => false,
        };

    private sealed class Rule : IPathRule
    {
        private const int Closed = 0;
        private const string Close = "call EndForward, or AbandonForward to take its tokens back";

        private readonly ISymbol _sequence;
        private readonly Paths _paths;
        private readonly KnownTypes _types;

        // State i + 1: opened by call i.
        private readonly List<IInvocationOperation> _begins = new();

        public Rule(ISymbol sequence, Paths paths, KnownTypes types)
        {
            _sequence = sequence;
            _paths = paths;
            _types = types;
        }

        public bool IsClosedSomewhere { get; private set; }

        public bool IsUncertain { get; private set; }

        public Dictionary<IOperation, string> Found { get; } = new();

        public int Step(IOperation operation, int state)
        {
            switch (operation)
            {
                case IInvocationOperation call when _types.IsCache(call.Instance?.Type):
                    return Call(call, state);
                // Whoever has the object of a field may close what the field holds.
                case IInvocationOperation { Instance: null or IInstanceReferenceOperation } call
                    when _sequence is IFieldSymbol or IPropertySymbol && !_types.IsOurs(call.TargetMethod):
                    return Closed;
                case ISimpleAssignmentOperation assignment
                    when SymbolEqualityComparer.Default.Equals(_paths.Symbol(assignment.Target), _sequence):
                    Lose(state, "is not closed when the variable gets another value; " + Close);
                    return Closed;
                default:
                    return state;
            }
        }

        public int Decide(IOperation condition, bool value, int state) =>
            value
            && condition.Unwrap() is IInvocationOperation { TargetMethod.Name: "TryBeginForward" } call
            && IsMentioned(call)
            && _types.IsCache(call.Instance?.Type)
                ? Open(call, state)
                : state;

        public void Leave(int state, (IOperation Condition, bool Value)? decision) =>
            Lose(
                state,
                decision is var (condition, value) && condition.Syntax.Span.Start > Position(state)
                    ? $"is still open when the function returns and '{condition.Syntax}' was {(value ? "true" : "false")}; {Close}"
                    : $"is still open when the function returns; {Close}"
            );

        private int Call(IInvocationOperation call, int state)
        {
            switch (call.TargetMethod.Name)
            {
                case "BeginForward" when IsMentioned(call):
                    return Open(call, state);
                case "EndForward" or "AbandonForward" or "Free":
                    return IsClosing(call) ? Closed : state;
                default:
                    return state;
            }
        }

        private int Open(IInvocationOperation call, int state)
        {
            Lose(state, "is still open when another one begins; " + Close);
            int index = _begins.IndexOf(call);
            if (index < 0)
            {
                index = _begins.Count;
                _begins.Add(call);
            }

            return index + 1;
        }

        private bool IsClosing(IInvocationOperation call)
        {
            IReadOnlyList<ISymbol> symbols = Sequences.In(Sequences.Argument(call), _paths);
            if (symbols.Contains(_sequence, SymbolEqualityComparer.Default))
            {
                IsClosedSomewhere = true;
                return true;
            }

            // An element of this batch, a part of it, or a batch with this sequence may be the same under another name.
            bool isOther = symbols.Count > 0 && symbols.All(symbol => IsSingle(symbol) == IsSingle(_sequence));
            IsUncertain |= !isOther;
            return false;
        }

        private bool IsSingle(ISymbol symbol) =>
            _types.IsSequence(
                symbol switch
                {
                    ILocalSymbol local => local.Type,
                    IParameterSymbol parameter => parameter.Type,
                    IFieldSymbol field => field.Type,
                    IPropertySymbol property => property.Type,
                    _ => null,
                }
            );

        private bool IsMentioned(IInvocationOperation call) =>
            Sequences.In(Sequences.Argument(call), _paths).Contains(_sequence, SymbolEqualityComparer.Default);

        private int Position(int state) => state > Closed ? _begins[state - 1].Syntax.Span.Start : 0;

        private void Lose(int state, string how)
        {
            if (state > Closed && !Found.ContainsKey(_begins[state - 1]))
            {
                Found.Add(_begins[state - 1], how);
            }
        }
    }
}
