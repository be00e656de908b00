using FlashInfer.Compilation;

namespace FlashInfer.Runtime.Tests.Compilation;

public sealed class PtxasReportTests
{
    private const string Report = """
        ptxas info    : 0 bytes gmem
        ptxas info    : Compiling entry function 'k2' for 'sm_90a'
        ptxas info    : Function properties for k2
        ptxas         .     0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads
        ptxas info    : Used 8 registers
        ptxas info    : Compiling entry function 'k' for 'sm_90a'
        ptxas info    : Function properties for k
        ptxas         .     32 bytes stack frame, 16 bytes spill stores, 24 bytes spill loads
        ptxas info    : Used 255 registers, used 1 barriers, 32 bytes cumulative stack size, 256 bytes smem, 360 bytes cmem[0]
        ptxas info    : Function properties for _Z1ff
        ptxas         .     64 bytes stack frame, 1 bytes spill stores, 2 bytes spill loads
        """;

    [Fact]
    public void Each_entry_has_its_own_figures_and_not_those_of_functions_it_calls() =>
        Assert.Equal([new KernelResources("k2", 8, 0, 0, 0, 0), new KernelResources("k", 255, 32, 16, 24, 256)], PtxasReport.Parse(Report));

    [Fact]
    public void A_log_without_a_report_has_no_entries() => Assert.Empty(PtxasReport.Parse("a.cu(1): warning #177-D: unused\n"));

    [Fact]
    public void Notes_of_serialised_wgmma_are_found_except_the_harmless_one()
    {
        const string Serialised = "ptxas info    : (C7512) Potential Performance Loss: wgmma.mma_async instructions are serialized";
        string log = $"{Report}\n{Serialised}\nptxas info    : (C7517) Potential Performance Loss: waits added\nbytes of C75123 and XC7512";

        Assert.Equal([Serialised], PtxasReport.PerformanceNotes(log));
    }
}
