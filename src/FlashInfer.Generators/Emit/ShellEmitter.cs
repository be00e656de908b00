using System.Collections.Generic;
using System.Linq;
using FlashInfer.Generators.Model;

namespace FlashInfer.Generators.Emit;

/// <summary>
/// Writes a shell. Where no overload fits, the compiler compares with the first one written, so the order decides how clear its error
/// is: the longest, and the simplest.
/// </summary>
internal static class ShellEmitter
{
    public static void Emit(CodeWriter code, ConfigText text, VariantModel? variant, Shell shell)
    {
        code.Line($"/// <summary>{shell.Summary}</summary>");
        code.Line(ConfigEmitter.GeneratedCode);
        code.Line($"public sealed class {shell.Name} : global::FlashInfer.{shell.Name}");
        code.Open();
        Document(code, shell.Constructor.Summary, shell.Constructor.Parameters);
        code.Line($"public {shell.Name}({Declarations(shell.Constructor.Parameters)})");
        code.Line($"    : base({Passed(shell.Constructor.Parameters)}) {{ }}");
        foreach (ShellPlan plan in shell.Plans)
        {
            Plan(code, text, variant, plan);
        }

        foreach (ShellMethod append in shell.Appends)
        {
            Forward(code, "Append", append.Summary, append.Parameters, Passed(append.Parameters));
        }

        if (shell.Run is { } run)
        {
            Run(code, text, variant, run);
        }

        code.Close();
    }

    /// <summary>The overload of Plan that takes the arguments of a variant, and what keeps the one without from being called.</summary>
    private static void Plan(CodeWriter code, ConfigText text, VariantModel? variant, ShellPlan plan)
    {
        if (variant?.ArgumentsType is not { } type)
        {
            return;
        }

        string names = VariantEmitter.Names(variant);
        Parameter[] all = [.. plan.Inputs, Arguments(variant, type), .. plan.Options];
        const string Priority = "[global::System.Runtime.CompilerServices.OverloadResolutionPriority(1)]";
        Forward(code, "Plan", plan.Summary, all, Passed(all), Priority);

        Parameter[] without = [.. plan.Inputs, .. plan.Options];
        code.Block(
            $$"""

            /// <summary>Not for this configuration, whose variant of attention takes arguments.</summary>
            [global::System.Obsolete("Give the plan the arguments of {{text.Name}}'s variant of attention: {{names}}.", error: true)]
            [global::System.ComponentModel.EditorBrowsable(global::System.ComponentModel.EditorBrowsableState.Never)]
            public new void Plan({{Declarations(without)}}) => base.Plan({{Passed(without)}});
            """
        );
    }

    private static Parameter Arguments(VariantModel variant, string type) =>
        new($"in {type}", "arguments", $"What the variant of attention reads: {VariantEmitter.Names(variant)}. Copied.")
        {
            Passed = $"new global::FlashInfer.VariantArguments<{type}>(arguments)",
        };

    private static void Run(CodeWriter code, ConfigText text, VariantModel? variant, ShellRun run)
    {
        Parameter output = Parameter.Tensor("Output", "output", $"{text.Output(run.Rows)}; every element is written.");
        Parameter lse = Parameter.Tensor("Lse2", "lse", $"{text.Lse(run.Rows)}, base 2; every element is written.");
        Parameter[] inputs = run.Plans && variant?.ArgumentsType is { } type ? [.. run.Inputs, Arguments(variant, type)] : run.Inputs;

        Parameter[] all = [.. inputs, output, lse, .. run.Options];
        Forward(code, "Run", run.Summary + ", and gives the log-sum-exp.", all, Passed(all));
        Forward(
            code,
            "Run",
            run.Summary + ".",
            [.. inputs, output, .. run.Options],
            Passed([.. inputs, output, lse with { Passed = "default" }, .. run.Options])
        );

        code.Line();
        Document(
            code,
            "As the overload with an output, which this one allocates: for tools and tests, not for a step that must not allocate.",
            [.. inputs, .. run.Options]
        );
        code.Block(
            $$"""
            /// <returns>{{text.Output(run.Rows)}}; the caller disposes it.</returns>
            public Output Run({{Declarations([.. inputs, .. run.Options])}})
            {
                Output output = AllocateOutput(query.View.Device, query.Tokens);
                try
                {
                    Run({{Names(inputs)}}, output, {{Names(run.Options)}});
                    return output;
                }
                catch
                {
                    output.Dispose();
                    throw;
                }
            }
            """
        );
    }

    /// <summary>A method that hands on to the base class's of the same name.</summary>
    private static void Forward(
        CodeWriter code,
        string name,
        string summary,
        Parameter[] parameters,
        string passed,
        string? attribute = null
    )
    {
        code.Line();
        Document(code, summary, parameters);
        if (attribute is not null)
        {
            code.Line(attribute);
        }

        code.Line($"public void {name}({Declarations(parameters)}) =>");
        code.Line($"    base.{name}({passed});");
    }

    private static void Document(CodeWriter code, string summary, IEnumerable<Parameter> parameters)
    {
        code.Line($"/// <summary>{summary}</summary>");
        foreach (Parameter parameter in parameters)
        {
            code.Line(parameter.Documentation);
        }
    }

    private static string Names(IEnumerable<Parameter> parameters) =>
        string.Join(", ", parameters.Select(static parameter => parameter.Name));

    private static string Declarations(IEnumerable<Parameter> parameters) =>
        string.Join(", ", parameters.Select(static parameter => parameter.Declaration));

    private static string Passed(IEnumerable<Parameter> parameters) =>
        string.Join(", ", parameters.Select(static parameter => parameter.Passed));
}
