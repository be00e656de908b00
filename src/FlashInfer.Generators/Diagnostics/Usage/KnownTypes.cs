using System.Collections.Concurrent;
using System.Linq;
using Microsoft.CodeAnalysis;

namespace FlashInfer.Generators.Diagnostics.Usage;

/// <summary>
/// The types of the runtime by role. Wrappers are known by what they have (<c>Plan</c> and <c>Run</c>) and not by their names, so that a
/// wrapper of a later version is held to the same rules.
/// </summary>
internal sealed class KnownTypes
{
    private readonly IAssemblySymbol _runtime;
    private readonly INamedTypeSymbol _cache;
    private readonly INamedTypeSymbol? _config;

    // Asked of the same few types again and again.
    private readonly ConcurrentDictionary<ITypeSymbol, bool> _wrappers = new(SymbolEqualityComparer.Default);
    private readonly ConcurrentDictionary<ITypeSymbol, bool> _configs = new(SymbolEqualityComparer.Default);

    private KnownTypes(INamedTypeSymbol cache, INamedTypeSymbol? config)
    {
        _runtime = cache.ContainingAssembly;
        _cache = cache;
        _config = config;
    }

    /// <summary>The types as a compilation sees them; null when it does not reference the runtime.</summary>
    public static KnownTypes? Of(Compilation compilation) =>
        compilation.GetTypeByMetadataName("FlashInfer.PagedKvCache") is { } cache
            ? new KnownTypes(cache, compilation.GetTypeByMetadataName("FlashInfer.IAttentionConfig"))
            : null;

    /// <summary>A paged KV cache, typed or not.</summary>
    public bool IsCache(ITypeSymbol? type) => Base(type, _cache) is not null;

    /// <summary>A class with a plan: decode, prefill and those to come.</summary>
    public bool IsWrapper(ITypeSymbol? type) => type is { TypeKind: TypeKind.Class } && _wrappers.GetOrAdd(type, HasPlan);

    /// <summary>What attends without a plan, typed or not.</summary>
    public bool IsSingle(ITypeSymbol? type) =>
        type is { TypeKind: TypeKind.Class }
        && (IsRuntime(type, "SinglePrefill") || IsRuntime(type, "SingleDecode") || IsSingle(type.BaseType));

    public bool IsDevice(ITypeSymbol? type) => IsRuntime(type, "Device");

    public bool IsStream(ITypeSymbol? type) => IsRuntime(type, "CudaStream");

    /// <summary>A struct that looks at memory: <c>TensorView</c>, with its element type or without.</summary>
    public bool IsView(ITypeSymbol? type) => IsRuntime(type, "TensorView");

    /// <summary>Whether a call copies a tensor to the host, and so waits; a copy into another tensor is queued as any work.</summary>
    public bool IsHostRead(IMethodSymbol method) =>
        method.Name is "ToArray" or "ToNaturalLog" || (method is { Name: "CopyTo", Parameters: [var to, ..] } && !IsView(to.Type));

    /// <summary>What owns the memory of a tensor: <c>DeviceTensor</c>, or a configuration's <c>Query</c>, <c>Key</c>, ...</summary>
    public bool IsTensor(ITypeSymbol? type) =>
        IsRuntime(type, "DeviceTensor") || (type is { TypeKind: TypeKind.Struct } && IsGenerated(type));

    /// <summary>A configuration's log-sum-exp, whose base is 2.</summary>
    public bool IsLse2(ITypeSymbol? type) => type is { Name: "Lse2" } && IsGenerated(type);

    /// <summary>What holds device memory until it is disposed.</summary>
    public bool OwnsMemory(ITypeSymbol? type) => IsTensor(type) || IsCache(type) || IsWrapper(type) || IsDevice(type) || IsSingle(type);

    public bool IsSequence(ITypeSymbol? type) => IsRuntime(type, "Sequence");

    /// <summary>A method of the runtime or of a generated class: it keeps no reference that could end a forward or dispose something.</summary>
    public bool IsOurs(IMethodSymbol method) =>
        IsRuntime(method.ContainingType) || IsConfig(method.ContainingType) || IsConfig(method.ContainingType?.ContainingType);

    /// <summary>Events, streams, graphs and contexts: the types by which one stream waits for another.</summary>
    public bool IsCuda(ITypeSymbol? type) => IsRuntime(type) && type?.ContainingNamespace.Name == "Cuda";

    private static ITypeSymbol? Base(ITypeSymbol? type, INamedTypeSymbol wanted)
    {
        while (type is not null && !SymbolEqualityComparer.Default.Equals(type, wanted))
        {
            type = type.BaseType;
        }

        return type;
    }

    private bool IsRuntime(ITypeSymbol? type, string name) => type?.Name == name && IsRuntime(type);

    private bool IsRuntime(ITypeSymbol? type) => SymbolEqualityComparer.Default.Equals(type?.ContainingAssembly, _runtime);

    private bool IsGenerated(ITypeSymbol type) => IsConfig(type.ContainingType) && type.GetMembers("View").Any();

    private bool IsConfig(ITypeSymbol? type) =>
        _config is not null
        && type is { TypeKind: TypeKind.Class }
        && _configs.GetOrAdd(type, type => type.AllInterfaces.Contains(_config, SymbolEqualityComparer.Default));

    private bool HasPlan(ITypeSymbol type)
    {
        for (ITypeSymbol? t = type; t is not null; t = t.BaseType)
        {
            if (IsRuntime(t) && t.GetMembers("Plan").Any() && t.GetMembers("Run").Any())
            {
                return true;
            }
        }

        return false;
    }
}
