using System;
using System.Globalization;
using FlashInfer.Generators.Model;

namespace FlashInfer.Generators.Emit;

/// <summary>The words of one configuration as the emitters write them, formatted once and for the invariant culture.</summary>
internal sealed class ConfigText
{
    public ConfigText(AttentionModel model)
    {
        AttentionShape shape = model.Shape;
        Name = model.Type.Name;
        FullName = "global::" + model.FullName;
        Heads = Number(shape.Heads);
        KvHeads = Number(shape.KvHeads);
        HeadDim = Number(shape.HeadDim);
        ValueDim = Number(shape.ValueDim);

        // An illegal shape gets the members that it would have had.
        HasCache = shape.HasCache || !AttentionRules.IsLegal(shape);
        HasPrefill = shape.HasPrefill || !AttentionRules.IsLegal(shape);
        HasCascade = HasCache && HasPrefill && model.Variant is null or { Options: AttentionOptions.LogitsSoftCap };
        PageSize = Number(shape.PageSize);

        // An illegal shape must not break the generator: no division by zero, and none of int.MinValue by -1.
        GroupSize = Number(shape is { Heads: > 0, KvHeads: > 0 } ? shape.GroupSize : 0);
        Dtype = Member(shape.Dtype, (int)shape.Dtype);
        KvDtype = Member(shape.KvDtype, (int)shape.KvDtype);
        KvLayout = Member(shape.KvLayout, (int)shape.KvLayout);
        Element = ElementOf(shape.Dtype);
        string sizes = $"{Heads} heads, {KvHeads} kvHeads (group {GroupSize}), headDim {HeadDim}, ";
        Summary =
            sizes
            + (
                HasCache
                    ? $"pageSize {PageSize}, {Dtype.Words}, KV {KvDtype.Words} {KvLayout.Words}"
                    : $"valueDim {ValueDim}, {Dtype.Words}, no cache"
            );
    }

    /// <summary>The class's name.</summary>
    public string Name { get; }

    /// <summary>The class's name from the root, for places where a base class may have a member of the same name.</summary>
    public string FullName { get; }

    public string Heads { get; }

    public string KvHeads { get; }

    public string GroupSize { get; }

    public string HeadDim { get; }

    public string ValueDim { get; }

    /// <summary>Whether there is a paged cache, and what attends over it.</summary>
    public bool HasCache { get; }

    /// <summary>Whether there is prefill, and what is made of it.</summary>
    public bool HasPrefill { get; }

    /// <summary>Whether levels of a cascade can each do what the configuration's variant of attention does: not where it asks where tokens stand.</summary>
    public bool HasCascade { get; }

    public string PageSize { get; }

    public (string Code, string Words) Dtype { get; }

    public (string Code, string Words) KvDtype { get; }

    public (string Code, string Words) KvLayout { get; }

    /// <summary>The C# type of the elements of query, output, and new keys and values.</summary>
    public string Element { get; }

    /// <summary>The configuration in one line.</summary>
    public string Summary { get; }

    /// <summary>The shape of a query as a reader sees it: "[tokens, 32, 128]".</summary>
    /// <param name="rows">The name of the first dimension.</param>
    public string Query(string rows) => $"[{rows}, {Heads}, {HeadDim}]";

    /// <summary>The shape of keys.</summary>
    public string Key(string rows) => $"[{rows}, {KvHeads}, {HeadDim}]";

    /// <summary>The shape of values.</summary>
    public string Value(string rows) => $"[{rows}, {KvHeads}, {ValueDim}]";

    /// <summary>The shape of an output.</summary>
    public string Output(string rows) => $"[{rows}, {Heads}, {ValueDim}]";

    /// <summary>The shape of log-sum-exps.</summary>
    public string Lse(string rows) => $"[{rows}, {Heads}]";

    private static string Number(int value) => value.ToString(CultureInfo.InvariantCulture);

    // A value without a name is written as a cast.
    private static (string Code, string Words) Member<T>(T member, int value)
        where T : struct, Enum
    {
        string type = "global::FlashInfer." + typeof(T).Name;
        string words = Enum.IsDefined(typeof(T), member) ? member.ToString() : Number(value);
        return (words == Number(value) ? $"({type})({words})" : $"{type}.{words}", words);
    }

    private static string ElementOf(DType dtype) =>
        dtype switch
        {
            DType.Float16 => "global::System.Half",
            DType.Float32 => "float",
            DType.Int32 => "int",
            DType.Float8E4M3 => "global::FlashInfer.Float8E4M3",
            DType.Float8E5M2 => "global::FlashInfer.Float8E5M2",
            _ => "global::FlashInfer.BFloat16",
        };
}
