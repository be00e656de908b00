using FlashInfer.Attention;

namespace FlashInfer.Cpu;

/// <summary>Checked mode on the CPU: the pages of a list are looked at before the work begins, since a wrong one would end the process.</summary>
internal static unsafe class CpuPageCheck
{
    /// <summary>Whether the cache has all pages that attention will read; if not, the first is noted as a checked kernel does.</summary>
    public static bool Passes(in PrefillParams p, int pageSize)
    {
        ListHeader* header = (ListHeader*)p.Plan;
        foreach (ref readonly WorkItem item in new ReadOnlySpan<WorkItem>(header + 1, header->Count))
        {
            int* pages = (int*)p.Pages + item.KvStart;
            for (int token = item.Begin; token < item.VisibleEnd; token += pageSize - (token % pageSize))
            {
                if (!Passes(p.Fault, pages[token / pageSize], p.PageCount, item.Row, token))
                {
                    return false;
                }
            }
        }

        return true;
    }

    /// <summary>As for attention, of the pages that append will write.</summary>
    public static bool Passes(in AppendParams p, int pageSize)
    {
        ListHeader* header = (ListHeader*)p.Plan;
        foreach (ref readonly AppendItem item in new ReadOnlySpan<AppendItem>(header + 1, header->Count))
        {
            int* pages = (int*)p.Pages + item.PageOffset;
            for (int i = 0; i < item.Count; i++)
            {
                int token = item.Position + i;
                if (!Passes(p.Fault, pages[token / pageSize], p.PageCount, item.Row + i, token))
                {
                    return false;
                }
            }
        }

        return true;
    }

    private static bool Passes(nint fault, int page, int pageCount, int row, int token)
    {
        if ((uint)page < (uint)pageCount)
        {
            return true;
        }

        *(KernelFault*)fault = new KernelFault
        {
            Kind = KernelFaultKind.PageOutOfRange,
            Row = row,
            Token = token,
            Value = page,
        };
        return false;
    }
}
