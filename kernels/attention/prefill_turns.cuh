// How queries and keys turn with their positions (rotary.cuh) in the portable prefill kernel's shared memory, in place: a
// warp's rows of Q once, before the unit's first product, and K of every block by all threads, for all warps. Quantised keys
// lie there in 8 bits, which cannot hold a turned one: they turn in registers, in every warp anew (prefill_products.cuh).
#pragma once

#include "attention/prefill_portable_layout.cuh"
#include "attention/rotary.cuh"

namespace flashinfer {

template <typename Shape>
struct PortableTurns {
  using Layout = PortableLayout<Shape>;
  using Tile = PrefillTile<Shape>;
  using Hooks = typename Shape::Hooks;
  using MathElement = typename Shape::MathElement;
  // Q beside quantised keys has their order of headDim, in which only two neighbours lie side by side.
  static constexpr int kVector = Shape::kQuantised                                                          ? 2
                                 : Shape::Variant::kTurnsNeighbours || Shape::Variant::kRotaryDim % 16 == 0 ? 8
                                                                                                            : 4;
  using Pairs = RotaryPairs<typename Shape::Variant, Shape::kHeadDim, kVector>;

  const PrefillParams& params;
  u32 base;

  __device__ __forceinline__ typename Hooks::Arguments angles() const { return Hooks::arguments(params.variant); }

  // The rows of this warp.
  __device__ __forceinline__ void turn_query(const Tile& tile, const ItemContext& context) const {
    constexpr int kRows = Shape::kSlabs * 16;
#pragma unroll 1
    for (int at = Layout::thread_index() % 32; at < kRows * Pairs::kParts; at += 32) {
      const int row = Layout::first_row(0) + at % kRows;
      const int token = Tile::token_of(min(row, tile.rows() - 1));
      turn<Layout::kQueryColumnBytes>(base, row, at / kRows, Hooks::position(context, tile.item.row + token));
    }
    __syncwarp();
  }

  // This thread's part of K of block n.
  __device__ __forceinline__ void turn_keys(const Tile& tile, int n) const {
    constexpr int kRows = Shape::kBlockTokens;
#pragma unroll 1
    for (int at = Layout::thread_index(); at < kRows * Pairs::kParts; at += Layout::kThreads) {
      turn<kRows * Shape::kRowBytes>(base + Layout::keys_of(n), at % kRows, at / kRows,
                                     tile.item.begin + tile.start_of(n) + at % kRows);
    }
  }

 private:
  template <int kColumnBytes>
  __device__ __forceinline__ void turn(u32 rows, int row, int part, u32 position) const {
    const u32 first = address<kColumnBytes>(rows, row, part * kVector);
    const u32 second = address<kColumnBytes>(rows, row, part * kVector + Pairs::kApart);
    float2 angle[Pairs::kPairs];
    Pairs::set(angle, part, position, angles());
    u32 x[kVector / 2], y[kVector / 2];
    load_shared(x, first);
    load_shared(y, second);
    Pairs::template turn<MathElement>(x, y, angle);
    store_shared(first, x);
    store_shared(second, y);
  }

  // Where an element of a row is.
  template <int kColumnBytes>
  static __device__ __forceinline__ u32 address(u32 rows, int row, int element) {
    const int chunk = Shape::kQuantised ? element / 16 * 2 + element % 4 / 2 : element / 8;
    const int word = Shape::kQuantised ? element % 16 / 4 : element % 8 / 2;
    return rows + chunk / Shape::kRowChunks * kColumnBytes + row * Shape::kRowBytes +
           Shape::swizzled(chunk % Shape::kRowChunks, row) * 16 + word * 4;
  }
};

}  // namespace flashinfer
