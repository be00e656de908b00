// What a variant of attention does to scores of prefill.
#pragma once

#include "attention/prefill_work.cuh"

namespace flashinfer {

template <typename Shape>
struct PrefillHooks {
  using Hooks = typename Shape::Hooks;
  using Variant = typename Shape::Variant;
  using Arguments = typename Hooks::Arguments;
  using Tile = PrefillTile<Shape>;

  // Rows behind the tile's own stand where its last one does.
  static __device__ __forceinline__ LogitsContext place(const Tile& tile, const ItemContext& context, int row) {
    row = min(row, tile.rows() - 1);
    return Hooks::place(context, tile.item.row + Tile::token_of(row), tile.head_of(row), tile.kv_head());
  }

  // The first token that a row sees: the rows before it see that one or earlier ones.
  static __device__ __forceinline__ int first_key(const Tile& tile, const ItemContext& context, int row,
                                                  const Arguments& a) {
    return Variant::first_key(place(tile, context, row), a);
  }

  // Shapes the scores of rows `row` and `row + 8`, which lie as PrefillSoftmax says, with a block that begins at token `begin`.
  // masked: not every row sees all of it; what a row does not see becomes -inf. The hooks are asked about all alike: a second
  // copy of them, for blocks that are not masked, took registers that are not there.
  template <int N>
  static __device__ __forceinline__ void shape(float (&s)[N], const Tile& tile, const ItemContext& context, int row,
                                               int begin, float scale, bool masked, const Arguments& a, int lane) {
    begin += (lane & 3) * 2;
    const LogitsContext at[2] = {place(tile, context, row), place(tile, context, row + 8)};
    shape_row<0>(s, at[0], begin, scale, a);
    shape_row<1>(s, at[1], begin, scale, a);
    if (masked) {
      hide_row<0>(s, tile.limit_of(row) - begin, Variant::first_key(at[0], a) - begin);
      hide_row<1>(s, tile.limit_of(row + 8) - begin, Variant::first_key(at[1], a) - begin);
    }
  }

 private:
  // In both, r is 1 for row + 8, and begin is this thread's first token.
  template <int r, int N>
  static __device__ __forceinline__ void shape_row(float (&s)[N], LogitsContext at, int begin, float scale,
                                                   const Arguments& a) {
    u32 bits[(2 * N + 31) / 32];
    at.kv_position = begin;
    if constexpr (Variant::kMasksBits) Variant::keep_bits(bits, at, a);
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float& score = s[4 * j + 2 * r + e];
        const int column = j * 8 + e;
        at.kv_position = begin + column;
        score = Hooks::shape(score, scale, at, a);
        if (Variant::kMasksBits && !(bits[column / 32] >> column % 32 & 1)) score = negative_infinity();
      }
    }
  }

  template <int r, int N>
  static __device__ __forceinline__ void hide_row(float (&s)[N], int limit, int first) {
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int column = j * 8 + e;
        if (column >= limit || (Hooks::kBounds && column < first)) s[4 * j + 2 * r + e] = negative_infinity();
      }
    }
  }
};

}  // namespace flashinfer
