using System;
using System.Collections.Generic;
using System.Linq;
using Microsoft.CodeAnalysis;
using Microsoft.CodeAnalysis.Operations;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// FI0107: what the runtime refuses while a stream is being captured, or what is silently left out of the graph. The CPU device has no
/// streams, so on a laptop such code never runs.
/// </summary>
internal static class CaptureCalls
{
    private const string HostCopy = "a graph would replay a copy from host memory that has long been overwritten; ";

    public static void Check(Paths paths, IOperation root, KnownTypes types, Action<Diagnostic> report)
    {
        Streams streams = new(paths, root, types);
        IEnumerable<ISymbol?> captured = paths
            .Operations()
            .OfType<IInvocationOperation>()
            .Where(call => call.TargetMethod.Name == "BeginCapture" && types.IsStream(call.Instance?.Type))
            .Select(call => paths.Symbol(call.Instance))
            .Distinct(SymbolEqualityComparer.Default);
        foreach (ISymbol? stream in captured)
        {
            if (stream is null)
            {
                continue;
            }

            Rule rule = new(stream, paths, streams, types);
            if (paths.Walk(rule))
            {
                foreach (KeyValuePair<IInvocationOperation, string> found in rule.Found)
                {
                    report(
                        Diagnostic.Create(
                            Descriptors.NotCapturable,
                            found.Key.Syntax.GetLocation(),
                            found.Key.TargetMethod.Name,
                            stream.Name,
                            found.Value
                        )
                    );
                }
            }
        }
    }

    private sealed class Rule : IPathRule
    {
        private const int Idle = 0;
        private const int Capturing = 1;

        private readonly ISymbol _stream;
        private readonly Paths _paths;
        private readonly Streams _streams;
        private readonly KnownTypes _types;
        private StreamName _name;

        public Rule(ISymbol stream, Paths paths, Streams streams, KnownTypes types)
        {
            _stream = stream;
            _paths = paths;
            _streams = streams;
            _types = types;
        }

        public Dictionary<IInvocationOperation, string> Found { get; } = new();

        public int Step(IOperation operation, int state)
        {
            if (operation is not IInvocationOperation call)
            {
                return state;
            }

            if (SymbolEqualityComparer.Default.Equals(_paths.Symbol(call.Instance), _stream))
            {
                switch (call.TargetMethod.Name)
                {
                    case "BeginCapture":
                        _name = _streams.Of(call.Instance);
                        return Capturing;
                    case "EndCapture":
                        return Idle;
                }
            }

            if (state == Capturing && Reason(call) is { } reason)
            {
                Found[call] = reason;
            }

            return state;
        }

        public int Decide(IOperation condition, bool value, int state) => state;

        public void Leave(int state, (IOperation Condition, bool Value)? decision) { }

        private string? Reason(IInvocationOperation call)
        {
            if (call.TargetMethod.Name == "Synchronize")
            {
                bool waits =
                    SymbolEqualityComparer.Default.Equals(_paths.Symbol(call.Instance), _stream)
                    || (_types.IsDevice(call.Instance?.Type) && _name.IsOwn);
                return waits
                    ? "nothing runs until the graph is launched, so there is nothing to wait for; synchronise after the launch"
                    : null;
            }

            if (_streams.Of(call) is not { } stream)
            {
                return null;
            }

            bool isWrapper = _types.IsWrapper(call.Instance?.Type);
            if (stream.IsAnother(_name))
            {
                return isWrapper && call.TargetMethod.Name is "Run" or "Append"
                    ? $"it is on {stream}, so it runs at once and is no part of the graph; give it the stream that is captured"
                    : null;
            }

            if (!stream.IsSame(_name))
            {
                return null;
            }

            return call.TargetMethod.Name switch
            {
                "Plan" when isWrapper => HostCopy + "plan before the capture, and a replay reads the list of the latest plan",
                "CopyFrom" or "SetScales" => HostCopy + "copy before the capture, into the same tensor",
                _ when _types.IsHostRead(call.TargetMethod) =>
                    "nothing runs until the graph is launched, so there is nothing to read; read after the launch",
                "Append" when _types.IsCache(call.Instance?.Type) => HostCopy + "use the wrapper's Append, whose list the plan has sent",
                _ => null,
            };
        }
    }
}
