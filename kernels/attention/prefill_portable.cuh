// Prefill on any sm_80 or later: cp.async, ldmatrix, mma.sync m16n8k16. Serves every page size, ragged keys and values too.
//
// Grid: any number of blocks, persistent. Block: 4 warps, each kSlabs slabs of 16 query rows; all load, all compute.
// Shared memory, bytes: Q kQueryBytes | K kBlockBytes | V kBlockBytes | page ids of two blocks | index of the next item.
//   A tile is [column][row][kRowBytes]. A warp's own rows of Q become its staging for the output.
// Step n, blocks of keys from the last that the tile sees down: K[n] has come; ask for V[n]; S = Q K[n]^T and softmax; V[n]
//   has come; ask for K[n - 1]; O += P V[n]. So one copy is always under way behind a product. Two block barriers a step:
//   the first says that K[n] is there and V[n + 1] read, the second that V[n] is there and K[n] read.
#pragma once

#include "attention/prefill_softmax.cuh"
#include "attention/prefill_work.cuh"
#include "core/fault.cuh"

namespace flashinfer {

template <typename Shape>
struct PortablePrefill {
  using Tile = PrefillTile<Shape>;
  using Element = typename Shape::Element;

  static constexpr int kWarps = 4;
  static constexpr int kThreads = kWarps * 32;
  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kSlabs = Shape::kTileRows / (kWarps * 16);
  static constexpr int kHeadDim = Shape::kHeadDim;
  static constexpr int kSteps = kHeadDim / 16;
  static constexpr int kColumnSteps = Shape::kColumn / 16;
  static constexpr int kQueryColumnBytes = Shape::kTileRows * Shape::kRowBytes;
  static constexpr int kBlockColumnBytes = kBlockTokens * Shape::kRowBytes;

  static constexpr int kKeyOffset = Shape::kQueryBytes;
  static constexpr int kValueOffset = kKeyOffset + Shape::kBlockBytes;
  static constexpr int kPagesOffset = kValueOffset + Shape::kBlockBytes;
  static constexpr int kNextOffset = kPagesOffset + 2 * kBlockTokens * 4;
  static constexpr int kSharedBytes = kNextOffset + 16;
#if __CUDA_ARCH__ == 860 || __CUDA_ARCH__ == 890 || __CUDA_ARCH__ >= 1200
  static constexpr int kSharedLimit = 99 * 1024;
#else
  static constexpr int kSharedLimit = 163 * 1024;
#endif
  static_assert(kSharedBytes <= kSharedLimit, "a block needs more shared memory than the chip has");
  // A second block fills the barriers' gaps where it fits; registers allow no third.
  static constexpr int kBlocksPerSm = 2 * (kSharedBytes + 1024) <= kSharedLimit ? 2 : 1;

  static __device__ __forceinline__ void run(const PrefillParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    launch_dependents();
    wait_for_dependency();
    PortablePrefill kernel(params, shared_address(shared));
    for (u32 index = blockIdx.x; index < static_cast<u32>(params.plan->count); index = kernel.next()) {
      kernel.attend(index);
    }
    if (threadIdx.x == 0) finish_items(params.counters);
  }

 private:
  const PrefillParams& params;
  u32 base;
  int warp = threadIdx.x >> 5, lane = threadIdx.x & 31;
  float scale;
  float slack;  // 2^8 in terms of scores
  Tile tile;

  __device__ __forceinline__ PortablePrefill(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base), scale(arguments.plan->scale_log2), slack(__fdividef(8.f, scale)) {}

  // The next item, for all threads. The barrier also says that the staging of the last output is free.
  __device__ __forceinline__ u32 next() const {
    if (threadIdx.x == 0) store_shared(base + kNextOffset, atomicAdd(params.counters, 1) + gridDim.x);
    __syncthreads();
    const u32 index = load_shared_word(base + kNextOffset);
    __syncthreads();  // read by all before it is written again
    return index;
  }

  __device__ __forceinline__ void attend(u32 index) {
    const int4* source = reinterpret_cast<const int4*>(items_of<PrefillItem>(params.plan) + index);
    tile = Tile::unpack(__ldg(source), __ldg(source + 1));
    const int blocks = tile.blocks();
    const u64 policy = evict_first_policy();

    float o[kSlabs][kHeadDim / 2];
    PrefillSoftmax softmax[kSlabs];
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      softmax[m].clear();
#pragma unroll
      for (int i = 0; i < kHeadDim / 2; i++) o[m][i] = 0.f;
    }

    if (blocks > 0) {
      copy_query(policy);
      store_page(blocks - 1, page_of(blocks - 1));
      __syncthreads();  // page ids
      copy_block<false>(blocks - 1);
      copy_async_commit();
    }
    for (int n = blocks - 1; n >= 0; n--) {
      copy_async_wait<0>();
      __syncthreads();
      copy_block<true>(n);
      copy_async_commit();
      const i32 page = page_of(n - 1);

      float s[kSlabs][kBlockTokens / 2];
      u32 p[kSlabs][kBlockTokens / 16][4];
      multiply_keys(s);
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        const int row = first_row(m) + (lane >> 2);
        const bool masked = (n + 1) * kBlockTokens > min(tile.item.kv_length, tile.item.visible + first_row(m));
        if (masked) {
          PrefillSoftmax::mask(s[m], min(tile.item.kv_length, tile.item.visible + row) - n * kBlockTokens,
                               min(tile.item.kv_length, tile.item.visible + row + 8) - n * kBlockTokens, lane);
        }
        const float2 factor = softmax[m].take(s[m], scale, slack, masked);
        if (__any_sync(~0u, factor.x != 1.f || factor.y != 1.f)) rescale(o[m], factor);
        round_probabilities(p[m], s[m]);
      }

      copy_async_wait<0>();
      store_page(n - 1, page);
      __syncthreads();
      if (n > 0) copy_block<false>(n - 1);
      copy_async_commit();
      multiply_values(o, p);
    }
#pragma unroll
    for (int m = 0; m < kSlabs; m++) write(m, o[m], softmax[m]);
  }

  __device__ __forceinline__ int first_row(int slab) const { return (warp * kSlabs + slab) * 16; }

  // Rows behind the item's repeat its last one: nobody reads what comes of them.
  __device__ __forceinline__ void copy_query(u64 policy) const {
    for (int i = threadIdx.x; i < Shape::kTileRows * Shape::kHeadChunks; i += kThreads) {
      const int row = i / Shape::kHeadChunks, chunk = i % Shape::kHeadChunks;
      const u16* source = params.query + (tile.item.row + min(row, tile.item.rows - 1)) * params.query_row_stride +
                          tile.item.head * params.query_head_stride + chunk * 8;
      copy_async(base + chunk / Shape::kRowChunks * kQueryColumnBytes + row * Shape::kRowBytes +
                     Shape::swizzled(chunk % Shape::kRowChunks, row) * 16,
                 source, 16, policy);
    }
  }

  // Paged: thread t has the page of token t of block n.
  __device__ __forceinline__ i32 page_of(int n) const {
    if constexpr (Shape::kPaged) {
      const int token = n * kBlockTokens + static_cast<int>(threadIdx.x);
      if (threadIdx.x < kBlockTokens && n >= 0 && token < tile.item.kv_length) {
        return checked_page<Shape::kChecked>(
            params, load_ahead(params.pages + tile.item.kv_start + token / Shape::kPageSize), tile.item.row, token);
      }
    }
    return 0;
  }

  __device__ __forceinline__ void store_page(int n, i32 page) const {
    if (Shape::kPaged && threadIdx.x < kBlockTokens) {
      store_shared(base + kPagesOffset + (n & 1) * (kBlockTokens * 4) + threadIdx.x * 4, static_cast<u32>(page));
    }
  }

  // K or V of a block. Rows behind the end become zeros: 0 * NaN would poison the output, and unused slots may hold
  // anything.
  template <bool kValues>
  __device__ __forceinline__ void copy_block(int n) const {
    const u16* source = reinterpret_cast<const u16*>(kValues ? params.value : params.key) +
                        tile.kv_head() * (kValues ? params.value_head_stride : params.key_head_stride);
    const i64 stride = kValues ? params.value_token_stride : params.key_token_stride;
    const u32 pages = base + kPagesOffset + (n & 1) * (kBlockTokens * 4);
#pragma unroll 2
    for (int i = threadIdx.x; i < kBlockTokens * Shape::kHeadChunks; i += kThreads) {
      const int at = i / Shape::kHeadChunks, chunk = i % Shape::kHeadChunks;
      const int token = n * kBlockTokens + at;
      const bool exists = token < tile.item.kv_length;
      i64 offset = chunk * 8;
      if constexpr (Shape::kPaged) {
        offset += load_shared_word(pages + at * 4) * params.page_stride + token % Shape::kPageSize * stride;
      } else if (exists) {
        offset += (static_cast<i64>(tile.item.kv_start) + token) * stride;
      }
      copy_async(base + (kValues ? kValueOffset : kKeyOffset) + chunk / Shape::kRowChunks * kBlockColumnBytes +
                     at * Shape::kRowBytes + Shape::swizzled(chunk % Shape::kRowChunks, at) * 16,
                 source + offset, exists ? 16 : 0);
    }
  }

  // S = Q K^T.
  __device__ __forceinline__ void multiply_keys(float (&s)[kSlabs][kBlockTokens / 2]) const {
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] = 0.f;
    }
    // Matrices of a K load: 8 tokens by chunk 0 and 1 of the step, then the next 8 tokens.
    const int token = (lane & 7) + (lane >> 4) * 8, row = first_row(0) + (lane & 15);
    const u32 keys = base + kKeyOffset + token * Shape::kRowBytes, rows = base + row * Shape::kRowBytes;
    const u32 key_swizzle = Shape::swizzled((lane >> 3) & 1, token) * 16;
    const u32 row_swizzle = Shape::swizzled(lane >> 4, row) * 16;
#pragma unroll
    for (int k = 0; k < kSteps; k++) {
      const u32 chunk = k % kColumnSteps * 32;
      u32 query[kSlabs][4];
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        ldmatrix(query[m],
                 rows + k / kColumnSteps * kQueryColumnBytes + m * 16 * Shape::kRowBytes + (row_swizzle ^ chunk));
      }
#pragma unroll
      for (int j = 0; j < kBlockTokens / 16; j++) {
        u32 key[4];
        ldmatrix(key, keys + k / kColumnSteps * kBlockColumnBytes + j * 16 * Shape::kRowBytes + (key_swizzle ^ chunk));
#pragma unroll
        for (int m = 0; m < kSlabs; m++) {
          multiply(s[m], 2 * j, query[m], key[0], key[1]);
          multiply(s[m], 2 * j + 1, query[m], key[2], key[3]);
        }
      }
    }
  }

  // The scores' fragments are P's as operands.
  static __device__ __forceinline__ void round_probabilities(u32 (&p)[kBlockTokens / 16][4],
                                                             const float (&s)[kBlockTokens / 2]) {
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = Element::pack(s[8 * k + 2 * i], s[8 * k + 2 * i + 1]);
    }
  }

  static __device__ __forceinline__ void rescale(float (&o)[kHeadDim / 2], float2 factor) {
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; j++) {
      o[4 * j] *= factor.x;
      o[4 * j + 1] *= factor.x;
      o[4 * j + 2] *= factor.y;
      o[4 * j + 3] *= factor.y;
    }
  }

  // O += P V.
  __device__ __forceinline__ void multiply_values(float (&o)[kSlabs][kHeadDim / 2],
                                                  const u32 (&p)[kSlabs][kBlockTokens / 16][4]) const {
    // Matrices of a transposed V load: 8 tokens, the next 8, both of chunk 0, then of chunk 1.
    const int token = lane & 15;
    const u32 values = base + kValueOffset + token * Shape::kRowBytes;
    const u32 swizzle = Shape::swizzled(lane >> 4, token) * 16;
#pragma unroll
    for (int k = 0; k < kBlockTokens / 16; k++) {
#pragma unroll
      for (int j = 0; j < kSteps; j++) {
        u32 value[4];
        ldmatrix_transposed(value, values + j / kColumnSteps * kBlockColumnBytes + k * 16 * Shape::kRowBytes +
                                       (swizzle ^ (j % kColumnSteps * 32)));
#pragma unroll
        for (int m = 0; m < kSlabs; m++) {
          multiply(o[m], 2 * j, p[m][k], value[0], value[1]);
          multiply(o[m], 2 * j + 1, p[m][k], value[2], value[3]);
        }
      }
    }
  }

  // Accumulator j of a row of them.
  template <int N>
  static __device__ __forceinline__ void multiply(float (&d)[N], int j, const u32 (&a)[4], u32 b0, u32 b1) {
    float(&part)[4] = *reinterpret_cast<float(*)[4]>(d + 4 * j);
    Element::mma(part, a, b0, b1);
  }

  // A slab's output and log-sum-exp, by way of the warp's own rows of Q: 16 bytes a thread.
  __device__ __forceinline__ void write(int slab, const float (&o)[kHeadDim / 2], PrefillSoftmax& softmax) const {
    softmax.gather();
    const float inverse0 = softmax.inverse(0), inverse1 = softmax.inverse(1);
    const int first = first_row(slab), row = first + (lane >> 2);
    __syncwarp();  // the warp has read its Q
#pragma unroll
    for (int j = 0; j < kHeadDim / 8; j++) {
      const u32 target = base + j / Shape::kRowChunks * kQueryColumnBytes + row * Shape::kRowBytes +
                         Shape::swizzled(j % Shape::kRowChunks, row) * 16 + (lane & 3) * 4;
      store_shared(target, Element::pack(o[4 * j] * inverse0, o[4 * j + 1] * inverse0));
      store_shared(target + 8 * Shape::kRowBytes, Element::pack(o[4 * j + 2] * inverse1, o[4 * j + 3] * inverse1));
    }
    __syncwarp();
    for (int i = lane; i < 16 * Shape::kHeadChunks; i += 32) {
      const int at = first + i / Shape::kHeadChunks, chunk = i % Shape::kHeadChunks;
      if (at < tile.item.rows) {
        u16* target = params.output + (tile.item.row + at) * params.output_row_stride +
                      tile.item.head * params.output_head_stride + chunk * 8;
        *reinterpret_cast<int4*>(target) =
            load_shared(base + chunk / Shape::kRowChunks * kQueryColumnBytes + at * Shape::kRowBytes +
                        Shape::swizzled(chunk % Shape::kRowChunks, at) * 16);
      }
    }
    if (params.lse != nullptr && (lane & 3) == 0) {
      float* target = params.lse + static_cast<i64>(tile.item.row + row) * Shape::kHeads + tile.item.head;
      if (row < tile.item.rows) target[0] = softmax.lse(0, scale);
      if (row + 8 < tile.item.rows) target[8 * Shape::kHeads] = softmax.lse(1, scale);
    }
  }
};

}  // namespace flashinfer
