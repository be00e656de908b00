using System.Runtime.CompilerServices;
using System.Runtime.Intrinsics.X86;

namespace FlashInfer.Cpu;

/// <summary>
/// Where the rows of a block of tokens are, and which rows are wanted next. Pages are scattered and the rows of one head lie apart, which
/// defeats the hardware's prefetching; asking for a block early hides the memory's latency behind the arithmetic on the one before. It goes
/// to the L2 cache, since the rows' large power-of-two stride maps a whole block to a few sets of the L1 cache.
/// </summary>
/// <param name="address">What the offsets are relative to.</param>
/// <param name="offsets">Bytes to each token's row.</param>
/// <param name="aheadAddress">What the offsets of the next rows are relative to.</param>
/// <param name="aheadOffsets">Bytes to each of the next rows, <see cref="CpuScratch.BlockTokens"/> of them; null to prefetch nothing.</param>
internal readonly unsafe struct RowBlock(byte* address, nint* offsets, byte* aheadAddress, nint* aheadOffsets)
{
    private const int CacheLine = 64;

    public readonly byte* Base = address;
    public readonly nint* Offsets = offsets;
    private readonly byte* _aheadBase = aheadAddress;
    private readonly nint* _aheadOffsets = aheadOffsets;

    /// <summary>The same rows with nothing to prefetch.</summary>
    public RowBlock WithoutAhead => new(Base, Offsets, null, null);

    /// <summary>Prefetches whole rows of 4 tokens.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void PrefetchAhead(int token, int rowBytes)
    {
        if (!Sse.IsSupported || _aheadOffsets == null)
        {
            return;
        }

        byte* row0 = _aheadBase + _aheadOffsets[token];
        byte* row1 = _aheadBase + _aheadOffsets[token + 1];
        byte* row2 = _aheadBase + _aheadOffsets[token + 2];
        byte* row3 = _aheadBase + _aheadOffsets[token + 3];
        for (int line = 0; line < rowBytes; line += CacheLine)
        {
            Sse.Prefetch1(row0 + line);
            Sse.Prefetch1(row1 + line);
            Sse.Prefetch1(row2 + line);
            Sse.Prefetch1(row3 + line);
        }
    }

    /// <summary>Prefetches some bytes of one token's row.</summary>
    [MethodImpl(MethodImplOptions.AggressiveInlining)]
    public void PrefetchAhead(int token, int first, int bytes)
    {
        if (!Sse.IsSupported || _aheadOffsets == null)
        {
            return;
        }

        byte* row = _aheadBase + _aheadOffsets[token] + first;
        Sse.Prefetch1(row);
        if (bytes > CacheLine)
        {
            Sse.Prefetch1(row + CacheLine);
        }
    }
}
