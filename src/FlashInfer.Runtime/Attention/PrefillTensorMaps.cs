using System.Numerics;
using FlashInfer.Cuda;

namespace FlashInfer.Attention;

/// <summary>
/// The tensor maps of a prefill kernel's arguments. Encoding one takes about a microsecond, so those of the last tensors are kept: a model
/// uses the same few for every layer and step. Safe to share between threads.
/// </summary>
/// <param name="context">The device's context.</param>
/// <param name="spec">The configuration.</param>
/// <param name="info">What the kernel says of itself.</param>
internal sealed class PrefillTensorMaps(CudaContext context, AttentionSpec spec, KernelInfo info)
{
    // A power of two; enough for models that have tensors of their own for each layer.
    private const int PlaceBits = 9;

    // Rows of a query that are one consumer's; those that a warp writes at once, and columns if there are four.
    private const int ConsumerRows = 64;
    private const int WarpRows = 16;
    private const int ColumnsOfFour = 2;

    private readonly Lock _lock = new();
    private readonly Key[] _keys = new Key[1 << PlaceBits];
    private readonly TensorMap[] _maps = new TensorMap[1 << PlaceBits];
    private readonly int _column = Math.Min(Column(spec.HeadDim), Column(spec.ValueDim));

    private enum Kind
    {
        None,
        Query,
        Output,
        Key,
        Value,
    }

    /// <summary>Elements of a column of a tile: 128 bytes, or 64 where the head dimension is no multiple of 64.</summary>
    public static int Column(int headDim) => headDim % 64 == 0 ? 64 : 32;

    /// <summary>Sets the maps of query and output, and those of ragged keys and values: a cache's map is the wrapper's to set.</summary>
    /// <param name="args">The arguments, all but the maps set.</param>
    /// <param name="rows">Rows of query and output.</param>
    /// <param name="keyRows">Rows of ragged keys and values.</param>
    public void Set(ref PrefillParams args, int rows, int keyRows)
    {
        lock (_lock)
        {
            args.QueryMap = Get(Kind.Query, args.Query, rows, args.QueryRowStride, args.QueryHeadStride, args.Queue);
            args.OutputMap = BitOperations.IsPow2(info.Pack)
                ? Get(Kind.Output, args.Output, rows, args.OutputRowStride, args.OutputHeadStride, args.Queue)
                : args.QueryMap;
            if (args.StagedKey != 0)
            {
                int row = spec.KvHeads * spec.HeadDim;
                args.KeyMap = Get(Kind.Key, args.StagedKey, keyRows, row, spec.HeadDim, args.Queue);
                args.ValueMap = Get(Kind.Value, args.StagedValue, keyRows, row, spec.HeadDim, args.Queue);
            }
            else if (args.Pages != 0)
            {
                // Pages that the copy engine can't take have no map, but kernels fetch all four ahead.
                if (spec.PageSize % KvTensorMap.GroupTokens != 0)
                {
                    args.KeyMap = args.ValueMap = args.QueryMap;
                }
            }
            else
            {
                args.KeyMap = Get(Kind.Key, args.Key, keyRows, args.KeyTokenStride, args.KeyHeadStride, args.Queue);
                args.ValueMap = Get(Kind.Value, args.Value, keyRows, args.ValueTokenStride, args.ValueHeadStride, args.Queue);
            }
        }
    }

    private TensorMap Get(Kind kind, nint address, int rows, long rowStride, long headStride, nint standIn)
    {
        Key key = new(kind, address, rows, rowStride, headStride);
        // Addresses end in zeros: the upper bits of a product with the golden ratio depend on all others.
        int at = (int)(((uint)key.GetHashCode() * 0x9E3779B9u) >> (32 - PlaceBits));
        if (_keys[at] != key)
        {
            // A map of no rows is refused. Kernels ask for one all the same but read none of it, so any memory will do.
            _maps[at] = rows > 0 ? Encode(key) : Encode(new Key(kind, standIn, 1, spec.HeadDim, spec.HeadDim));
            _keys[at] = key;
        }

        return _maps[at];
    }

    private TensorMap Encode(in Key key)
    {
        int columns = (key.Kind is Kind.Value or Kind.Output ? spec.ValueDim : spec.HeadDim) / _column;
        return key.Kind is Kind.Key or Kind.Value
            ? TensorMapEncoder.Encode(
                context,
                spec.Dtype,
                key.Address,
                [_column, key.Rows, columns, spec.KvHeads],
                [key.RowStride, _column, key.HeadStride],
                [_column, info.BlockTokens, columns, 1]
            )
            : TensorMapEncoder.Encode(
                context,
                spec.Dtype,
                key.Address,
                [_column, spec.Heads, key.Rows, columns],
                [key.HeadStride, key.RowStride, _column],
                key.Kind == Kind.Output ? [.. Rows(WarpRows), columns == 4 ? ColumnsOfFour : columns]
                    : BitOperations.IsPow2(info.Pack) ? [.. Rows(ConsumerRows), 1]
                    : [_column, info.Pack, info.TileTokens, 1]
            );
    }

    // A column of so many rows of a tile: heads and tokens.
    private int[] Rows(int count) => [_column, Math.Min(info.Pack, count), Math.Max(1, count / info.Pack)];

    private readonly record struct Key(Kind Kind, nint Address, int Rows, long RowStride, long HeadStride);
}
