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
  using Row = RotaryRow<typename Shape::Variant, Shape::kHeadDim, Shape::kQuantised>;

  const PrefillParams& params;
  u32 base;

  __device__ __forceinline__ typename Hooks::Arguments angles() const { return Hooks::arguments(params.variant); }

  // The rows of this warp.
  __device__ __forceinline__ void turn_query(const Tile& tile, const ItemContext& context) const {
    constexpr int kRows = Shape::kSlabs * 16;
#pragma unroll 1
    for (int at = Layout::thread_index() % 32; at < kRows * Row::kParts; at += 32) {
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
    for (int at = Layout::thread_index(); at < kRows * Row::kParts; at += Layout::kThreads) {
      turn<kRows * Shape::kRowBytes>(base + Layout::keys_of(n), at % kRows, at / kRows,
                                     tile.item.begin + tile.start_of(n) + at % kRows);
    }
  }

 private:
  template <int kColumnBytes>
  __device__ __forceinline__ void turn(u32 rows, int row, int part, u32 position) const {
    const auto chunk_at = [=](int chunk) {
      return rows + chunk / Shape::kRowChunks * kColumnBytes + row * Shape::kRowBytes +
             Shape::swizzled(chunk % Shape::kRowChunks, row) * 16;
    };
    Row::template turn<MathElement>(part, chunk_at, position, angles());
  }
};

}  // namespace flashinfer
