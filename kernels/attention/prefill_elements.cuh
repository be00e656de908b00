// What a variant of attention makes of the elements of queries and outputs of prefill.
#pragma once

#include "attention/prefill_work.cuh"
#include "attention/rotary.cuh"

namespace flashinfer {

template <typename Shape>
struct PrefillElements {
  using Hooks = typename Shape::Hooks;
  using Tile = PrefillTile<Shape>;

  // Rows behind the tile's own stand where its last one does.
  static __device__ __forceinline__ ElementContext place(const Tile& tile, const ItemContext& context, int row) {
    row = min(row, tile.rows() - 1);
    return Hooks::element_place(context, tile.item.row + Tile::token_of(row), tile.head_of(row), tile.kv_head());
  }

  // Q's rows from `first` on, before `end`, in shared memory, in place, by one warp. address says where a row's 16-byte chunk lies.
  template <typename Address>
  static __device__ __forceinline__ void transform_query(const PrefillParams& params, const Tile& tile,
                                                         const ItemContext& context, int first, int end,
                                                         Address address) {
    const typename Hooks::Arguments arguments = Hooks::arguments(params.variant);
#pragma unroll 1
    for (int i = first * Shape::kHeadChunks + lane_now(); i < end * Shape::kHeadChunks; i += 32) {
      const int row = i / Shape::kHeadChunks, chunk = i % Shape::kHeadChunks;
      const ElementContext at = place(tile, context, row);
      u32 words[4];
      load_shared(words, address(row, chunk));
#pragma unroll
      for (int w = 0; w < 4; w++) {
        const int element = Shape::query_element(chunk, w);
        words[w] = Hooks::template transform_query<typename Shape::MathElement>(words[w], at, element, arguments);
      }
      store_shared(address(row, chunk), words);
    }
  }

  // Turns them with their positions, once `wait` has returned; angles are there before, unless scores take the registers. Rows of a query
  // token follow one another: a lane takes so many of them that share an angle.
  template <typename Address, typename Wait>
  static __device__ __forceinline__ void turn_query(const PrefillParams& params, const Tile& tile,
                                                    const ItemContext& context, int first, int end, Address address,
                                                    Wait wait) {
    using Row = RotaryRow<typename Shape::Variant, Shape::kHeadDim, false>;
    constexpr int kRows = greatest_divisor(Shape::kPack, 4);
    constexpr bool kAhead = !Hooks::kShapes;
    const int count = (end - first) / kRows * Row::kParts;
    const int position = Hooks::position(context, tile.item.row);  // of the tile's first query token
    float2 angles[Row::Pairs::kPairs];
    int i = lane_now();
    const auto take = [&] {
      Row::Pairs::set(angles, i % Row::kParts, position + Tile::token_of(first + i / Row::kParts * kRows),
                      Hooks::arguments(params.variant));
    };
    if (kAhead) take();
    wait();
#pragma unroll 1
    while (i < count) {
      if (!kAhead) take();
      const int row = first + i / Row::kParts * kRows, part = i % Row::kParts;
#pragma unroll
      for (int r = 0; r < kRows; r++) {
        Row::template turn<typename Shape::MathElement>(
            part, [&](int chunk) { return address(row + r, chunk); }, angles);
      }
      i += 32;
      if (kAhead && i < count) take();
    }
  }

  // The outputs that a thread accumulated of its rows `row` and `row + 8`, divided by their sums; and the log-sum-exps of these.
  static __device__ __forceinline__ void transform_output(float (&o)[Shape::kValueDim / 2], const PrefillParams& params,
                                                          const Tile& tile, const ItemContext& context, int row,
                                                          float2 lse2) {
    const typename Hooks::Arguments arguments = Hooks::arguments(params.variant);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const ElementContext at = place(tile, context, row + 8 * r);
#pragma unroll
      for (int j = 0; j < Shape::kValueDim / 8; j++) {
        FloatVector<2> two = {o[4 * j + 2 * r], o[4 * j + 2 * r + 1]};
        Hooks::transform_output(two, at, Shape::pair_element(j, lane_now() & 3), r == 0 ? lse2.x : lse2.y, arguments);
        o[4 * j + 2 * r] = two.at[0];
        o[4 * j + 2 * r + 1] = two.at[1];
      }
    }
  }
};

}  // namespace flashinfer
