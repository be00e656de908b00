using System;
using System.Collections.Generic;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Lowering;

/// <summary>What stands in the way of a variant. The analyzer reports it; the generator only asks whether there is anything.</summary>
/// <param name="report">Takes each problem once; null to drop them.</param>
internal sealed class VariantProblems(Action<Diagnostic>? report)
{
    private readonly HashSet<(string Id, Location Location)> _reported = new();

    /// <summary>Whether the variant cannot be lowered.</summary>
    public bool Any { get; private set; }

    public void Report(DiagnosticDescriptor descriptor, Location location, params object[] values)
    {
        Any = true;
        if (_reported.Add((descriptor.Id, location)))
        {
            report?.Invoke(Diagnostic.Create(descriptor, location, values));
        }
    }

    /// <summary>The code does not compile: the compiler has said why.</summary>
    public void Broken() => Any = true;
}
