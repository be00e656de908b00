using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0102: <c>Run</c> or <c>Append</c> that throws StalePlanException whenever its path is taken: a wrapper made in this function that
/// was not planned, or any wrapper whose planned sequences have begun, abandoned or been freed since.
/// </summary>
internal static class RunWithoutPlan
{
    private static readonly string[] s_uses = { "Run", "Append" };

    public static void Check(Paths paths, IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        IEnumerable<IGrouping<ISymbol?, IInvocationOperation>> wrappers = paths
            .Operations()
            .OfType<IInvocationOperation>()
            .Where(call => types.IsWrapper(call.Instance?.Type))
            .GroupBy(call => paths.Symbol(call.Instance), SymbolEqualityComparer.Default);
        foreach (IGrouping<ISymbol?, IInvocationOperation> wrapper in wrappers)
        {
            if (wrapper.Key is { } symbol && wrapper.Any(static call => s_uses.Contains(call.TargetMethod.Name)))
            {
                Rule rule = new(symbol, paths, types, isOwn: IsOwn(symbol, root, types));
                if (paths.Walk(rule))
                {
                    foreach (KeyValuePair<IInvocationOperation, string> found in rule.Found)
                    {
                        report(
                            Diagnostic.Create(
                                Descriptors.RunWithoutPlan,
                                found.Key.Syntax.GetLocation(),
                                symbol.Name,
                                found.Key.TargetMethod.Name,
                                found.Value
                            )
                        );
                    }
                }
            }
        }
    }

    // Nobody else has seen it: what it is used for besides calls of this library is nothing that could plan.
    private static bool IsOwn(ISymbol symbol, IOperation root, KnownTypes types) =>
        symbol is ILocalSymbol local && !Undisposed.UsesOf(local, root, types).HasFlag(Undisposed.Use.Escapes);

    private sealed class Rule : IPathRule
    {
        private const int Unknown = 0;
        private const int None = 1;
        private const int FirstPlan = 2;

        private readonly ISymbol _wrapper;
        private readonly Paths _paths;
        private readonly KnownTypes _types;
        private readonly bool _isOwn;

        // States from FirstPlan on: 2 * i planned with the sequences of plan i, 2 * i + 1 the same, but stale.
        private readonly List<IReadOnlyList<ISymbol>> _plans = new();
        private readonly Dictionary<IInvocationOperation, int> _planStates = new();
        private readonly Dictionary<int, string> _staleBy = new();

        public Rule(ISymbol wrapper, Paths paths, KnownTypes types, bool isOwn)
        {
            _wrapper = wrapper;
            _paths = paths;
            _types = types;
            _isOwn = isOwn;
        }

        public Dictionary<IInvocationOperation, string> Found { get; } = new();

        public int Step(IOperation operation, int state)
        {
            switch (operation)
            {
                case ISimpleAssignmentOperation assignment when Is(assignment.Target):
                    return _isOwn && assignment.Value.Unwrap() is IObjectCreationOperation ? None : Unknown;
                case IInvocationOperation call when Is(call.Instance):
                    return Use(call, state);
                case IInvocationOperation call when state >= FirstPlan && _types.IsCache(call.Instance?.Type):
                    return Change(call, state);
                default:
                    return state;
            }
        }

        public int Decide(IOperation condition, bool value, int state) =>
            value
            && state >= FirstPlan
            && condition.Unwrap() is IInvocationOperation { TargetMethod.Name: "TryBeginForward" } call
            && _types.IsCache(call.Instance?.Type)
                ? Stale(call, state)
                : state;

        public void Leave(int state, (IOperation Condition, bool Value)? decision) { }

        private bool Is(IOperation? operation) => SymbolEqualityComparer.Default.Equals(_paths.Symbol(operation), _wrapper);

        private int Use(IInvocationOperation call, int state)
        {
            if (call.TargetMethod.Name == "Plan")
            {
                if (!_planStates.TryGetValue(call, out int planned))
                {
                    planned = FirstPlan + (2 * _plans.Count);
                    _plans.Add(Sequences.In(Sequences.Argument(call), _paths));
                    _planStates.Add(call, planned);
                }

                return planned;
            }

            if (s_uses.Contains(call.TargetMethod.Name))
            {
                if (state == None)
                {
                    Found[call] = "Plan is not called before it on every path; call it once with the step's sequences, before the layers";
                }
                else if (state > FirstPlan && state % 2 == 1)
                {
                    Found[call] = $"{_staleBy[state]} after Plan made the plan stale; call Plan after it";
                }
            }

            return state;
        }

        private int Change(IInvocationOperation call, int state) =>
            call.TargetMethod.Name switch
            {
                "BeginForward" or "AbandonForward" or "Free" => Stale(call, state),
                // With accepted tokens it depends on their number; a plan is stale where some were refused.
                "EndForward" when call.Arguments.Length > 1 && IsPlanned(call, state) => Unknown,
                _ => state,
            };

        private int Stale(IInvocationOperation call, int state)
        {
            if (!IsPlanned(call, state))
            {
                return state;
            }

            _staleBy[state | 1] = call.TargetMethod.Name;
            return state | 1;
        }

        private bool IsPlanned(IInvocationOperation call, int state) =>
            Sequences
                .In(Sequences.Argument(call), _paths)
                .Any(symbol => _plans[(state - FirstPlan) / 2].Contains(symbol, SymbolEqualityComparer.Default));
    }
}
