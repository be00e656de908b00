using System.Collections.Generic;
using System.Globalization;
using System.Linq;
using FlashInfer.Generators.Model;

namespace FlashInfer.Generators.Emit;

/// <summary>Writes the class by which planners and the CPU device call the methods of a variant of attention.</summary>
internal static class VariantEmitter
{
    /// <summary>The nested class.</summary>
    public const string ClassName = "Variant";

    /// <summary>The variant's text as units have it; null when there is none or it has an error.</summary>
    public static string? Cuda(VariantModel? variant) =>
        variant is null || variant.Cuda.Length == 0 ? null
        : variant.Options != AttentionOptions.None ? variant.Cuda
        : "#include \"core/csharp.cuh\"\n" + variant.Cuda;

    /// <summary>The instance that the specification takes.</summary>
    public static string Instance(VariantModel variant) =>
        variant.Options == AttentionOptions.None
            ? $"new {ClassName}()"
            : $"global::FlashInfer.AttentionVariant.Of({string.Join(" | ", Names(variant.Options))}{(variant.RotaryDim == 0 ? "" : $", rotaryDim: {variant.RotaryDim.ToString(CultureInfo.InvariantCulture)}")})";

    /// <summary>Whether the configuration gets the class; the runtime has that of options.</summary>
    public static bool HasClass(VariantModel? variant) => variant is { Options: AttentionOptions.None };

    /// <summary>The arguments that a plan is given: not those that follow from others.</summary>
    public static string Names(VariantModel variant) =>
        string.Join(", ", variant.Arguments.Where(static argument => !argument.IsComputed).Select(static argument => argument.Name));

    public static void Emit(CodeWriter code, ConfigText text, VariantModel variant)
    {
        string arguments = variant.ArgumentsType is { } type ? $"<{type}>" : "";
        string names = variant.ArgumentsType is null ? "" : $", \"{Names(variant)}\"";
        code.Block(
            $$"""
            /// <summary>The variant of attention that this class describes: a GPU runs the text, planners and the CPU device call the methods.</summary>
            {{ConfigEmitter.GeneratedCode}}
            private sealed class {{ClassName}} : global::FlashInfer.AttentionVariant{{arguments}}
            {
                public {{ClassName}}()
                    : base({{Hooks(variant)}}, Text{{names}}) { }
            """
        );
        Apply(code, text, variant);
        Elements(code, text, variant, VariantHookKind.QueryTransform);
        Elements(code, text, variant, VariantHookKind.OutputTransform);
        FirstKeyAndSink(code, text, variant);
        Arguments(code, variant);

        // The literal ends before the last line break of its text, so the text's own one needs a line after it.
        code.Line();
        code.Line("    private const string Text = \"\"\"");
        code.Block(Cuda(variant) ?? "");
        code.Line("\"\"\";");
        code.Line("}");
    }

    private static void Apply(CodeWriter code, ConfigText text, VariantModel variant)
    {
        string? transform = Call(text, variant, VariantHookKind.Transform, "logit, at");
        string? mask = Call(text, variant, VariantHookKind.Mask, "at");
        if (transform is null && mask is null)
        {
            return;
        }

        string logit = mask is null ? transform! : $"{mask} ? {transform ?? "logit"} : float.NegativeInfinity";
        bool reads = Reads(variant, VariantHookKind.Transform) || Reads(variant, VariantHookKind.Mask);
        code.Block(
            $$"""

                public override void Apply(global::System.Span<float> logits, global::FlashInfer.LogitsContext at, global::FlashInfer.VariantReader arguments)
                {
            """
        );
        if (reads)
        {
            code.Line($"        {variant.ArgumentsType} a = Read(arguments);");
        }

        code.Block(
            $$"""
                    foreach (ref float logit in logits)
                    {
                        logit = {{logit}};
                        at = at with { KvPosition = at.KvPosition + 1 };
                    }
                }
            """
        );
    }

    private static void Elements(CodeWriter code, ConfigText text, VariantModel variant, VariantHookKind kind)
    {
        bool isOutput = kind == VariantHookKind.OutputTransform;
        if (Call(text, variant, kind, isOutput ? "element, lse2, at" : "element, at") is not { } transform)
        {
            return;
        }

        code.Block(
            $$"""

                public override void {{(isOutput ? "TransformOutput" : "TransformQuery")}}(global::System.Span<float> elements, {{(
                isOutput ? "float lse2, " : ""
            )}}global::FlashInfer.ElementContext at, global::FlashInfer.VariantReader arguments)
                {
            """
        );
        if (Reads(variant, kind))
        {
            code.Line($"        {variant.ArgumentsType} a = Read(arguments);");
        }

        code.Block(
            $$"""
                    foreach (ref float element in elements)
                    {
                        element = {{transform}};
                        at = at with { Element = at.Element + 1 };
                    }
                }
            """
        );
    }

    private static void FirstKeyAndSink(CodeWriter code, ConfigText text, VariantModel variant)
    {
        if (Call(text, variant, VariantHookKind.FirstKey, "at", "Read(arguments)") is { } firstKey)
        {
            code.Line();
            code.Line(
                $"    public override int FirstKey(global::FlashInfer.LogitsContext at, global::FlashInfer.VariantReader arguments) => {firstKey};"
            );
        }

        if (Call(text, variant, VariantHookKind.Sink, "head", "Read(arguments)") is { } sink)
        {
            code.Line();
            code.Line($"    public override float Sink(int head, global::FlashInfer.VariantReader arguments) => {sink};");
        }
    }

    private static void Arguments(CodeWriter code, VariantModel variant)
    {
        if (variant.ArgumentsType is not { } type)
        {
            return;
        }

        code.Line();
        code.Line($"    public override void Write(scoped in {type} arguments, global::FlashInfer.VariantWriter writer)");
        code.Line("    {");
        foreach (VariantArgument argument in variant.Arguments)
        {
            code.Line($"        writer.Write(arguments.{argument.Name});");
        }

        code.Line("    }");
        if (!variant.Hooks.Any(static hook => hook.TakesArguments))
        {
            return;
        }

        code.Line();
        code.Line($"    private static {type} Read(global::FlashInfer.VariantReader reader) => new()");
        code.Line("    {");
        foreach (VariantArgument argument in variant.Arguments.Where(static argument => !argument.IsComputed))
        {
            code.Line($"        {argument.Name} = reader.{Reader(argument)}(),");
        }

        code.Line("    };");
    }

    private static string Reader(VariantArgument argument) =>
        argument.IsSpan
            ? $"ReadSpan<{argument.Element}>"
            : argument.Element switch
            {
                "int" => "ReadInt32",
                "uint" => "ReadUInt32",
                "bool" => "ReadBoolean",
                _ => "ReadSingle",
            };

    /// <summary>The call of a method, which takes its parameters by value or as <c>in</c>; null when the variant has none of the kind.</summary>
    private static string? Call(ConfigText text, VariantModel variant, VariantHookKind kind, string parameters, string arguments = "a") =>
        variant.Hooks.FirstOrDefault(hook => hook.Kind == kind) is { } method
            ? $"{text.FullName}.{method.Method}({parameters}{(method.TakesArguments ? ", " + arguments : "")})"
            : null;

    private static bool Reads(VariantModel variant, VariantHookKind kind) =>
        variant.Hooks.Any(hook => hook.Kind == kind && hook.TakesArguments);

    private static IEnumerable<string> Names(AttentionOptions options) =>
        options
            .ToString()
            .Split(',')
            .Select(static name => name.Trim())
            .Select(static name =>
                char.IsLetter(name[0]) ? $"global::FlashInfer.AttentionOptions.{name}" : $"(global::FlashInfer.AttentionOptions)({name})"
            );

    private static string Hooks(VariantModel variant)
    {
        IEnumerable<string> hooks = variant.Hooks.Select(static hook => $"global::FlashInfer.VariantHooks.{hook.Kind}");
        return variant.Hooks.Count == 0 ? "global::FlashInfer.VariantHooks.None" : string.Join(" | ", hooks);
    }
}
