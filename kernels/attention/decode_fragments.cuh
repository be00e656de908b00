// K and V of a tile as operands of the matrix product (mma.sync m16n8k16), out of shared memory by ldmatrix.
// 8-bit elements come four to a register: neighbours in headDim (K), or pairs of those for two tokens (V). So the order of
//   headDim inside a step is another one, alike for K and Q, and for V and O.
#pragma once

#include "attention/decode_work.cuh"

namespace flashinfer {

// K and V of a tile as A operands of the math element.
template <typename Shape>
struct KvFragments {
  using KvElement = typename Shape::KvElement;
  static constexpr bool kIs8Bit = KvElement::kBytes == 1;
  static constexpr int kSteps = kIs8Bit ? 2 : 1;  // steps of 16 along headDim that one ldmatrix brings

  u32 at[kSteps][4];

  // Steps `step` and following, counted over the unit's KV heads: 16 tokens x 16 elements of headDim each.
  __device__ __forceinline__ void load_keys(u32 tile, int step, int lane) {
    u32 a[4];
    ldmatrix(a, tile + Shape::chunk_offset(lane & 15, step * (2 / kSteps) + (lane >> 4)));
    if constexpr (kIs8Bit) {
#pragma unroll
      for (int i = 0; i < 2; i++) {
        at[i][0] = KvElement::widen_low(a[2 * i]);
        at[i][1] = KvElement::widen_low(a[2 * i + 1]);
        at[i][2] = KvElement::widen_high(a[2 * i]);
        at[i][3] = KvElement::widen_high(a[2 * i + 1]);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) at[0][i] = a[i];
    }
  }

  // As load_keys, transposed: 16 elements of headDim x 16 tokens each.
  __device__ __forceinline__ void load_values(u32 tile, int step, int lane) {
    u32 a[4];
    const int row = (lane & 7) + ((lane >> 4) << 3);
    ldmatrix_transposed(a, tile + Shape::chunk_offset(row, step * (2 / kSteps) + ((lane >> 3) & 1)));
    if constexpr (kIs8Bit) {
#pragma unroll
      for (int i = 0; i < 2; i++) {  // two tokens of two neighbours become two neighbours of two tokens
        const u32 first = __byte_perm(a[i], 0, 0x3120), last = __byte_perm(a[i + 2], 0, 0x3120);
        at[i][0] = KvElement::widen_low(first);
        at[i][1] = KvElement::widen_high(first);
        at[i][2] = KvElement::widen_low(last);
        at[i][3] = KvElement::widen_high(last);
      }
    } else {
#pragma unroll
      for (int i = 0; i < 4; i++) at[0][i] = a[i];
    }
  }

  // Eight elements of Q: those that a lane quartet wants first (even chunks) or second (odd) of a step, in its order.
  static __device__ __forceinline__ uint4 load_query(const u16* row, int chunk) {
    if constexpr (kIs8Bit) {
      const u32* source = reinterpret_cast<const u32*>(row + chunk / 2 * 16) + chunk % 2;
      return make_uint4(source[0], source[2], source[4], source[6]);
    } else {
      // Of short sequences Q and the output are more than the L2 keeps: there it keeps the output.
      const u16* source = row + chunk * 8;
      return Shape::kTeamUnits ? *reinterpret_cast<const uint4*>(source) : load_kept(source);
    }
  }

  // Where in headDim the two elements of one of its words stand.
  static __device__ __forceinline__ int query_element(int chunk, int word) {
    return kIs8Bit ? chunk / 2 * 16 + chunk % 2 * 2 + word * 4 : chunk * 8 + word * 2;
  }

  // Where in headDim row lane / 4 + 8 * half of a step's output stands.
  static __device__ __forceinline__ int output_element(int step, int half, int lane) {
    return step * 16 + (kIs8Bit ? (lane >> 2) * 2 + half : (lane >> 2) + half * 8);
  }
};

}  // namespace flashinfer
