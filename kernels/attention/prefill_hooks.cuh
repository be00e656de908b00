// What a variant of attention does to scores of prefill.
#pragma once

#include "attention/prefill_work.cuh"

namespace flashinfer {

// For a thread's rows `row` and `row + 8` and a block of tokens. It is made while the products are under way, so that nobody waits for
// what it reads.
template <typename Shape>
struct PrefillHooks {
  using Hooks = typename Shape::Hooks;
  using Variant = typename Shape::Variant;
  using Arguments = typename Hooks::Arguments;
  using Tile = PrefillTile<Shape>;

  static constexpr int kWords = (Shape::kBlockTokens + 31) / 32;

  Arguments arguments;
  LogitsContext at[2];
  float scale;  // smScale
  int begin;    // this thread's first token
  int limit[2], first[2];
  u32 bits[2][kWords];

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

  // masked: not every row sees all of the block, which begins at token `block`.
  __device__ __forceinline__ PrefillHooks(const PrefillParams& params, const Tile& tile, const ItemContext& context,
                                          int row, int block, float logits_scale, bool masked, int lane)
      : arguments(Hooks::arguments(params.variant)), scale(logits_scale), begin(block + (lane & 3) * 2) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      at[r] = place(tile, context, row + 8 * r);
      at[r].kv_position = begin;
      if constexpr (Variant::kMasksBits) Variant::keep_bits(bits[r], at[r], arguments);
      if (masked) {
        limit[r] = tile.limit_of(row + 8 * r) - begin;
        first[r] = Variant::first_key(at[r], arguments) - begin;
      }
    }
  }

  // Shapes the scores, which lie as PrefillSoftmax says; what a row does not see becomes -inf. The variant is asked about all alike: a
  // second copy of its hooks, for blocks that are not masked, took registers that are not there.
  template <int N>
  __device__ __forceinline__ void shape(float (&s)[N], bool masked) {
    shape_row<0>(s);
    shape_row<1>(s);
    if (masked) {
      hide_row<0>(s);
      hide_row<1>(s);
    }
  }

 private:
  template <int r, int N>
  __device__ __forceinline__ void shape_row(float (&s)[N]) {
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        float& score = s[4 * j + 2 * r + e];
        const int column = j * 8 + e;
        at[r].kv_position = begin + column;
        score = Hooks::shape(score, scale, at[r], arguments);
        if (Variant::kMasksBits && !(bits[r][column / 32] >> column % 32 & 1)) score = negative_infinity();
      }
    }
  }

  template <int r, int N>
  __device__ __forceinline__ void hide_row(float (&s)[N]) const {
#pragma unroll
    for (int j = 0; j < N / 4; j++) {
#pragma unroll
      for (int e = 0; e < 2; e++) {
        const int column = j * 8 + e;
        if (column >= limit[r] || (Hooks::kBounds && column < first[r])) s[4 * j + 2 * r + e] = negative_infinity();
      }
    }
  }
};

}  // namespace flashinfer
