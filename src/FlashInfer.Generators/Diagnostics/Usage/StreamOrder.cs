using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0106: a tensor, cache or wrapper used on one stream and then on another, without anything between that waits; and a result of a
/// captured call that is read before the graph is launched. Only streams that certainly differ count.
/// </summary>
internal static class StreamOrder
{
    public static void Check(Paths paths, IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        Streams streams = new(paths, root, types);
        IInvocationOperation[] calls = paths
            .Operations()
            .OfType<IInvocationOperation>()
            .Where(call => streams.Of(call) is not null)
            .ToArray();
        bool hasStreams = calls.Any(call => streams.Of(call) is { IsNew: true });
        bool hasCapture = paths.Operations().Any(static o => o is IInvocationOperation { TargetMethod.Name: "BeginCapture" });
        if (!hasStreams && !hasCapture)
        {
            return;
        }

        IEnumerable<ISymbol> used = calls.SelectMany(call => Objects(call, paths, types)).Distinct<ISymbol>(SymbolEqualityComparer.Default);
        Dictionary<IInvocationOperation, Diagnostic> found = new();
        foreach (ISymbol symbol in used)
        {
            Rule rule = new(symbol, paths, streams, types);
            if (paths.Walk(rule))
            {
                // A call is wrong once, however many of its tensors are.
                foreach (KeyValuePair<IInvocationOperation, Diagnostic> pair in rule.Found)
                {
                    found[pair.Key] = found.TryGetValue(pair.Key, out Diagnostic? first) ? first : pair.Value;
                }
            }
        }

        foreach (Diagnostic diagnostic in found.Values)
        {
            report(diagnostic);
        }
    }

    /// <summary>What a call works on: its receiver and its tensors.</summary>
    private static IEnumerable<ISymbol> Objects(IInvocationOperation call, Paths paths, KnownTypes types) =>
        call
            .Arguments.Select(static argument => argument.Value)
            .Prepend(call.Instance!)
            .Where(static value => value is not null)
            .Select(value => Root(value, paths, types))
            .Where(static symbol => symbol is not null)!;

    // output and output.View are the same memory.
    private static ISymbol? Root(IOperation value, Paths paths, KnownTypes types)
    {
        IOperation? operation = value.Unwrap();
        if (operation is IPropertyReferenceOperation { Property.Name: "View", Instance: { } owner })
        {
            operation = owner.Unwrap();
        }

        ITypeSymbol? type = operation?.Type;
        return types.IsTensor(type) || types.IsView(type) || types.IsCache(type) || types.IsWrapper(type) ? paths.Symbol(operation) : null;
    }

    private sealed class Rule : IPathRule
    {
        private const int Unknown = 0;
        private const int Captured = 1;
        private const int FirstStream = 2;
        private const int Capturing = 1 << 16;

        private readonly ISymbol _symbol;
        private readonly Paths _paths;
        private readonly Streams _streams;
        private readonly KnownTypes _types;

        // State FirstStream + i, plus Capturing during a capture: last used on stream i.
        private readonly List<StreamName> _names = new();
        private bool _isInGraph;

        public Rule(ISymbol symbol, Paths paths, Streams streams, KnownTypes types)
        {
            _symbol = symbol;
            _paths = paths;
            _streams = streams;
            _types = types;
        }

        public Dictionary<IInvocationOperation, Diagnostic> Found { get; } = new();

        public int Step(IOperation operation, int state)
        {
            switch (operation)
            {
                case ISimpleAssignmentOperation assignment
                    when SymbolEqualityComparer.Default.Equals(_paths.Symbol(assignment.Target), _symbol):
                    return state & Capturing;
                case IInvocationOperation { TargetMethod.Name: "BeginCapture" } call when _types.IsCuda(call.Instance?.Type):
                    return state | Capturing;
                case IInvocationOperation { TargetMethod.Name: "EndCapture" } call when _types.IsCuda(call.Instance?.Type):
                    return state & ~Capturing;
                case IInvocationOperation { TargetMethod.Name: "Launch" } call when _types.IsCuda(call.Instance?.Type):
                    return _isInGraph ? State(_streams.Of(call.Argument("stream"))) : state;
                case IInvocationOperation call
                    when _streams.Of(call) is { } stream && Objects(call, _paths, _types).Contains(_symbol, SymbolEqualityComparer.Default):
                    return Use(call, stream, state);
                case IInvocationOperation call when MayWait(call):
                    return state is Captured or (Captured | Capturing) && _types.IsOurs(call.TargetMethod) ? state : state & Capturing;
                default:
                    return state;
            }
        }

        public int Decide(IOperation condition, bool value, int state) => state;

        public void Leave(int state, (IOperation Condition, bool Value)? decision) { }

        private int Use(IInvocationOperation call, StreamName stream, int state)
        {
            if ((state & Capturing) != 0)
            {
                bool isWritten = call.Arguments.Any(argument =>
                    argument.Parameter?.Name is "output" or "lse"
                    && SymbolEqualityComparer.Default.Equals(Root(argument.Value, _paths, _types), _symbol)
                );
                _isInGraph = true;
                return isWritten ? Captured | Capturing : Capturing;
            }

            if (state == Captured)
            {
                if (call.TargetMethod.Name is "CopyTo" or "ToArray" or "ToNaturalLog")
                {
                    Found[call] = Diagnostic.Create(
                        Descriptors.StreamNotWaitedFor,
                        call.Syntax.GetLocation(),
                        $"{_symbol.Name} is read by {call.TargetMethod.Name}, but the graph that computes it is not launched before; launch it, or read after the launch"
                    );
                }

                return Unknown;
            }

            int next = State(stream);
            if (state >= FirstStream && next >= FirstStream && _names[state - FirstStream].IsAnother(stream))
            {
                Found[call] = Diagnostic.Create(
                    Descriptors.StreamNotWaitedFor,
                    call.Syntax.GetLocation(),
                    $"{_symbol.Name} is used by {call.TargetMethod.Name} on {stream}, which does not wait for the work on {_names[state - FirstStream]} that used it before; let it wait for an event of that stream, or synchronise"
                );
            }

            // A read has waited for its stream.
            return _types.IsHostRead(call.TargetMethod) ? Unknown : next;
        }

        private int State(StreamName stream)
        {
            if (!stream.IsOwn && !stream.IsNew)
            {
                return Unknown;
            }

            int index = _names.FindIndex(stream.IsSame);
            if (index < 0)
            {
                index = _names.Count;
                _names.Add(stream);
            }

            return FirstStream + index;
        }

        // Events, waits, and any code that is given a stream, a device, or the tensor itself.
        private bool MayWait(IInvocationOperation call) =>
            call.TargetMethod.Name == "Synchronize"
            || _types.IsCuda(call.Instance?.Type)
            || !_types.IsOurs(call.TargetMethod)
                && call.Arguments.Select(static argument => argument.Value)
                    .Append(call.Instance)
                    .Any(value =>
                        value
                            ?.DescendantsAndSelf()
                            .Any(o =>
                                _types.IsCuda(o.Type)
                                || _types.IsDevice(o.Type)
                                || SymbolEqualityComparer.Default.Equals(o.Reference(), _symbol)
                            ) == true
                    );
    }
}
