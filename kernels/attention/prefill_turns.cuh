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
  using Rotary = flashinfer::Rotary<typename Shape::Variant, Shape::kHeadDim, Shape::kQuantised>;
  using MathElement = typename Shape::MathElement;

  const PrefillParams& params;
  u32 base;

  __device__ __forceinline__ typename Hooks::Arguments angles() const { return Hooks::arguments(params.variant); }

  // The rows of this warp.
  __device__ __forceinline__ void turn_query(const Tile& tile, const ItemContext& context) const {
    constexpr int kRows = Shape::kSlabs * 16;
#pragma unroll 1
    for (int at = Layout::thread_index() % 32; at < kRows * Rotary::kChunks; at += 32) {
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
    for (int at = Layout::thread_index(); at < kRows * Rotary::kChunks; at += Layout::kThreads) {
      turn<kRows * Shape::kRowBytes>(base + Layout::keys_of(n), at % kRows, at / kRows,
                                     tile.item.begin + tile.start_of(n) + at % kRows);
    }
  }

 private:
  template <int kColumnBytes>
  __device__ __forceinline__ void turn(u32 rows, int row, int chunk, u32 position) const {
    const auto address = [=](int step, int half) {
      const int at = step * 2 + half;
      return rows + at / Shape::kRowChunks * kColumnBytes + row * Shape::kRowBytes +
             Shape::swizzled(at % Shape::kRowChunks, row) * 16;
    };
    Rotary::template turn_chunk<MathElement>(chunk, address, position, angles());
  }
};

}  // namespace flashinfer
