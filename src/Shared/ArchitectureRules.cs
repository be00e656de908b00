using System;
using System.Collections.Generic;

namespace FlashInfer;

/// <summary>What one architecture makes of a legal configuration: it runs, but not as well as it could.</summary>
/// <param name="Id">The diagnostic id, <c>FI####</c>; never reused.</param>
/// <param name="Title">The rule in a few words.</param>
/// <param name="IsWarning">Whether it is a warning, rather than a hint.</param>
/// <param name="Parameter">The attribute argument that the diagnostic points at.</param>
/// <param name="IsMet">The test, for one architecture.</param>
/// <param name="Message">What is wrong, the value, the legal set, what to do; takes the architectures that fail the test.</param>
internal sealed record ArchitectureRule(
    string Id,
    string Title,
    bool IsWarning,
    string Parameter,
    Func<AttentionShape, TargetArchitecture, bool> IsMet,
    Func<AttentionShape, string, string> Message
);

/// <summary>
/// How legal configurations fare on the architectures that a project names in <c>FlashInferArchitectures</c>. No rule here forbids one: the
/// kernels take what registers and shared memory an architecture has, and their <c>static_assert</c>s refuse what would not fit, which
/// nothing legal does; <c>KernelBudgetTests</c> asks them for every architecture.
/// </summary>
internal static class ArchitectureRules
{
    // cvt.rn.f16x2.e4m3x2: core/float8.cuh does it in software before.
    private const int FirstWithFloat8 = 89;
    private const int FirstWithCopyEngine = 90;

    // A tile of the decode kernel: the copy engine fetches tiles that lie in one page.
    private const int CopyEngineTokens = 16;

    /// <summary>All rules, in the order in which they are reported.</summary>
    public static IReadOnlyList<ArchitectureRule> All { get; } =
        new ArchitectureRule[]
        {
            new(
                "FI0012",
                "KvDtype is emulated on an architecture",
                IsWarning: true,
                "KvDtype",
                static (s, architecture) => s.KvDtype != DType.Float8E4M3 || architecture.Number >= FirstWithFloat8,
                static (s, architectures) =>
                    $"KvDtype is {s.KvDtype}, which {architectures} can only convert in software; in hardware from sm_{FirstWithFloat8} on. Use Float8E5M2, which is read without conversion everywhere, or take the architecture out of FlashInferArchitectures."
            ),
            new(
                "FI0013",
                "pageSize keeps the copy engine idle",
                IsWarning: false,
                "pageSize",
                static (s, architecture) =>
                    !s.HasCache || architecture is not { Number: FirstWithCopyEngine, Suffix: "a" } || s.PageSize % CopyEngineTokens == 0,
                static (s, architectures) =>
                    $"pageSize is {s.PageSize}, so decode on {architectures} does without the copy engine, which fetches {CopyEngineTokens} tokens of one page at a time. Use a multiple of {CopyEngineTokens} unless small pages matter more."
            ),
        };

    /// <summary>The multiple of a copy engine's tile nearest to a page size, from below only where that is not zero.</summary>
    public static int NearestPageSize(int pageSize) =>
        Math.Min(Math.Max(1, (pageSize + (CopyEngineTokens / 2)) / CopyEngineTokens), AttentionRules.MaxPageSize / CopyEngineTokens)
        * CopyEngineTokens;
}
