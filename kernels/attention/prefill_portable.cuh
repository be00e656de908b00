// Prefill on any sm_80 or later: cp.async, ldmatrix, mma.sync m16n8k16. Serves every page size, ragged keys and values, and
// quantised ones.
//
// Grid: any number of blocks, persistent. Block: 4 or 8 warps, each kSlabs slabs of 16 rows of the tile; all load
//   (prefill_copies.cuh), all compute (prefill_products.cuh). A warp without rows only loads.
// Shared memory, at PortableLayout's offsets: Q | two units | page ids of three blocks | maxima and sums | K | V. A warp's own
//   rows of Q become its staging for the output. K and V once or twice, as there is room.
// A tile walks over blocks of tokens, from the last that it sees down. K and V twice: while a step computes, the next block
//   comes; one block barrier a step, which says that this block is there and the last one read. Once: V[n] comes behind
//   Q K[n]^T, K[n - 1] behind P V[n], with a barrier before each product.
// The next unit, its first page ids and Q (to the L2) are fetched while this one is computed.
// Programmatic dependent launch: nothing is read before the wait.
#pragma once

#include "attention/prefill_copies.cuh"
#include "attention/prefill_hooks.cuh"
#include "attention/prefill_parts.cuh"
#include "attention/prefill_products.cuh"
#include "attention/prefill_softmax.cuh"
#include "attention/prefill_turns.cuh"

namespace flashinfer {

template <typename Shape>
struct PortablePrefill {
  using Layout = PortableLayout<Shape>;
  using Copies = PortableCopies<Shape>;
  using Products = PortableProducts<Shape>;
  using Turns = PortableTurns<Shape>;
  using Parts = PrefillParts<Shape>;
  using Tile = PrefillTile<Shape>;
  using Hooks = typename Shape::Hooks;
  using Element = typename Shape::Element;

  static constexpr int kThreads = Layout::kThreads;
  static constexpr int kBlocksPerSm = Layout::kBlocksPerSm;
  static constexpr int kSharedBytes = Layout::kSharedBytes;
  static constexpr int kFeatures = 0;
  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kValueDim = Shape::kValueDim;
  static constexpr int kSlabs = Shape::kSlabs;

  static __device__ __forceinline__ void run(const PrefillParams& params) {
    extern __shared__ __align__(1024) unsigned char shared[];
    launch_dependents();
    wait_for_dependency();
    PortablePrefill kernel(params, shared_address(shared));
    kernel.attend_all();
    if (threadIdx.x == 0) finish_queue(params.queue);
  }

 private:
  const PrefillParams& params;
  u32 base;
  u32 place;  // of the unit: one of two
  Copies copies;
  Turns turns;

  __device__ __forceinline__ PortablePrefill(const PrefillParams& arguments, u32 shared_base)
      : params(arguments),
        base(shared_base),
        place(shared_base + Layout::kUnitOffset),
        copies{arguments, shared_base},
        turns{arguments, shared_base} {}

  __device__ __forceinline__ void attend_all() {
    if (threadIdx.x == 0) copies.fetch(place, blockIdx.x);
    copy_async_wait_all();
    __syncthreads();
    copies.prepare(place);
    copy_async_wait_all();
    __syncthreads();
    while (load_word<Layout::kIndexPlace>() >= 0) {
      attend();
      __syncthreads();  // the next unit is there, and all else in shared memory is free
      place ^= Layout::kUnitBytes;
    }
  }

  // Read again wherever it is wanted: registers are scarce.
  __device__ __forceinline__ Tile unit_tile() const { return Layout::tile_at(place); }

  template <int kOffset>
  __device__ __forceinline__ i32 load_word() const {
    i32 v;
    asm volatile("ld.shared.s32 %0, [%1 + %2];" : "=r"(v) : "r"(place), "n"(kOffset) : "memory");
    return v;
  }

  __device__ __forceinline__ float unit_scale() const { return __int_as_float(load_word<Layout::kScalePlace>()); }
  // What turns that of which the softmax is made into logits of base 2: the product of Q and K, or what a variant makes of it.
  __device__ __forceinline__ float softmax_scale() const {
    if constexpr (Hooks::kRescales) {
      return Hooks::softmax_scale(unit_scale() * Hooks::kLn2, params.variant);
    } else {
      return unit_scale();
    }
  }

  __device__ __forceinline__ void attend() {
    const Tile tile = unit_tile();
    const int blocks = tile.blocks();
    float o[kSlabs][kValueDim / 2];
    PrefillSoftmax softmax[kSlabs];
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      softmax[m].clear();
#pragma unroll
      for (int i = 0; i < kValueDim / 2; i++) o[m][i] = 0.f;
    }
    put_aside(softmax);
    if (blocks > 0) {
      copies.copy_query(tile);
      copies.check_pages(tile, blocks - 1, copies.first_pages());
      copies.template copy_block<false>(tile, blocks - 1, copies.first_pages());
      if constexpr (Layout::kDouble) {
        copies.template copy_block<true>(tile, blocks - 1, copies.first_pages());
        copies.copy_pages(tile, blocks - 2, copies.pages_of(blocks - 2));
      }
    }
    copy_async_commit();
    if (threadIdx.x == 0) {
      copies.fetch(place ^ Layout::kUnitBytes, atomicAdd(params.queue, 1) + gridDim.x);
      float scale = params.plan->scale_log2;
      if constexpr (Shape::kHasScales) scale *= __ldg(params.key_scales + tile.kv_head());
      store_shared(place + Layout::kScalePlace, __float_as_uint(scale));
    }
    copy_async_commit();
    if (blocks == 0) {
      copy_async_wait<0>();
      __syncthreads();  // the scale and the next unit are there
      copies.prepare(place ^ Layout::kUnitBytes);
    }

    int n = blocks - 1;
    if (Layout::first_row(0) >= tile.rows()) {
#pragma unroll 1
      for (; n >= 0; n--) {  // a warp without rows only copies
        start_step(n);
        turn_step(n);
      }
    }
#pragma unroll 1
    for (; n >= 0; n--) {
      start_step(n);
      float s[kSlabs][kBlockTokens / 2];
      u32 p[kSlabs][kBlockTokens / 16][4];
      if constexpr (Hooks::kRotates) {
        if (n == blocks - 1) turns.turn_query(unit_tile(), Layout::context_at(place));
      }
      if constexpr (Hooks::kTransformsQuery) {
        if (n == blocks - 1) transform_query();
      }
      if constexpr (Hooks::kRotates && Shape::kQuantised) {
        Products::multiply_turned_keys(s, base, base + Layout::keys_of(n),
                                       unit_tile().item.begin + unit_tile().start_of(n), turns.angles());
      } else {
        Products::multiply_keys(s, base, base + Layout::keys_of(n));
      }
      const float scale = softmax_scale(), slack = __fdividef(8.f, scale);
      const bool masked = hides(n);
      if constexpr (Hooks::kShapes) {
        shape(s, n, masked);
      } else if (masked) {
        mask(s, n);
      }
      take_back(softmax);
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        float2 factor;
        if (softmax[m].raise(s[m], scale, slack, factor)) Products::rescale(o[m], factor);
        softmax[m].weigh(s[m], scale, masked || Hooks::kVisits);
        Products::round_probabilities(p[m], s[m]);
      }
      put_aside(softmax);
      turn_step(n);
      Products::multiply_values(o, p, base + Layout::values_of(n));
    }
    copy_async_wait_all();
    take_back(softmax);
    finish(o, softmax);
  }

  // K of block n is there, and everybody has done with the step before: asks for what is needed next.
  __device__ __forceinline__ void start_step(int n) const {
    copy_async_wait<0>();
    __syncthreads();
    if constexpr (Layout::kDouble) {
      if (n > 0) {
        const u32 pages = copies.pages_of(n - 1);
        copies.check_pages(unit_tile(), n - 1, pages);
        copies.template copy_block<false>(unit_tile(), n - 1, pages);
        copies.template copy_block<true>(unit_tile(), n - 1, pages);
        copies.copy_pages(unit_tile(), n - 2, copies.pages_of(n - 2));
      } else {
        copies.prepare(place ^ Layout::kUnitBytes);
      }
    } else {
      const bool first = Shape::kPaged && n == unit_tile().blocks() - 1;
      copies.template copy_block<true>(unit_tile(), n, first ? copies.first_pages() : copies.pages_of(n));
      copies.copy_pages(unit_tile(), n - 1, copies.pages_of(n - 1));
    }
    copy_async_commit();
    if constexpr (Shape::kTurnsKeys && !Shape::kQuantised) {
      turns.turn_keys(unit_tile(), n);
      __syncthreads();
    }
  }

  // Between the products of a step.
  __device__ __forceinline__ void turn_step(int n) const {
    if constexpr (!Layout::kDouble) {
      copy_async_wait<0>();
      __syncthreads();
      if (n > 0) {
        const u32 pages = copies.pages_of(n - 1);
        copies.check_pages(unit_tile(), n - 1, pages);
        copies.template copy_block<false>(unit_tile(), n - 1, pages);
      } else {
        copies.prepare(place ^ Layout::kUnitBytes);
      }
      copy_async_commit();
    }
  }

  // Lets the variant have its say on this warp's rows of Q.
  __device__ __forceinline__ void transform_query() const {
    const int first = Layout::first_row(0);
    PrefillElements<Shape>::transform_query(
        params, unit_tile(), Layout::context_at(place), first, first + kSlabs * 16, [&](int row, int chunk) {
          return base + chunk / Shape::kRowChunks * Layout::kQueryColumnBytes + row * Shape::kRowBytes +
                 Shape::swizzled(chunk % Shape::kRowChunks, row) * 16;
        });
    __syncwarp();
  }

  // Whether a row of this warp does not see all of block n: the first row sees the fewest tokens, and the last one's first
  // token is the latest.
  __device__ __forceinline__ bool hides(int n) const {
    const Tile tile = unit_tile();
    if constexpr (Hooks::kBounds) {
      const int first = PrefillHooks<Shape>::first_key(
          tile, Layout::context_at(place), Layout::first_row(kSlabs - 1) + 15, Hooks::arguments(params.variant));
      if (tile.item.begin + tile.start_of(n) < first) return true;
    }
    if (Hooks::kSkips && tile.start_of(n) + kBlockTokens > tile.skipped.before) return true;
    return tile.item.begin + tile.start_of(n) + kBlockTokens > tile.limit_of(Layout::first_row(0));
  }

  // Hides what rows do not see of block n.
  __device__ __forceinline__ void mask(float (&s)[kSlabs][kBlockTokens / 2], int n) const {
    const Tile tile = unit_tile();
    const int start = tile.item.begin + tile.start_of(n);
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      const int row = Layout::own_row(m);
      PrefillSoftmax::mask(s[m], tile.limit_of(row) - start, tile.limit_of(row + 8) - start, threadIdx.x & 31);
    }
  }

  // Lets the variant have its say on the scores with block n.
  __device__ __forceinline__ void shape(float (&s)[kSlabs][kBlockTokens / 2], int n, bool masked) const {
    const Tile tile = unit_tile();
    const ItemContext context = Layout::context_at(place);
#pragma unroll
    for (int m = 0; m < kSlabs; m++) {
      const int row = Layout::own_row(m), block = tile.item.begin + tile.start_of(n), lane = threadIdx.x & 31;
      const float scale = unit_scale() * Hooks::kLn2;
      if constexpr (Hooks::kAddsLine) {
        const PrefillLine<Shape> line(params, tile, context, row, scale, (lane & 3) * 2);
        const float2 height = line.height(tile.start_of(n));
        float presets[kBlockTokens / 2];
        line.preset(presets);
#pragma unroll
        for (int i = 0; i < kBlockTokens / 2; i++) s[m][i] += presets[i] + (i / 2 % 2 == 0 ? height.x : height.y);
      }
      if constexpr (Hooks::kVisits) {
        const PrefillHooks<Shape> hooks(params, tile, context, row, block, scale, lane);
        hooks.shape(s[m]);
      }
      if constexpr (Shape::Variant::kMasksBits) {
        const int first = Layout::first_row(m);
        PrefillMask<Shape> bits;
        bits.load(params, tile, context, first, n);
        bits.hide(s[m], first, row, n);
      }
      if (masked) PrefillHooks<Shape>::mask(s[m], params, tile, context, row, block, lane);
    }
  }

  // This thread's maxima and sums: in shared memory between softmaxes, where registers do not suffice.
  __device__ __forceinline__ void put_aside(const PrefillSoftmax (&softmax)[kSlabs]) const {
    if constexpr (Layout::kStateInShared) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        store_shared(base + Layout::kStateOffset + (m * Layout::kThreads + Layout::thread_index()) * 16,
                     make_int4(__float_as_int(softmax[m].max[0]), __float_as_int(softmax[m].max[1]),
                               __float_as_int(softmax[m].sum[0]), __float_as_int(softmax[m].sum[1])));
      }
    }
  }
  __device__ __forceinline__ void take_back(PrefillSoftmax (&softmax)[kSlabs]) const {
    if constexpr (Layout::kStateInShared) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) {
        const int4 state =
            load_shared(base + Layout::kStateOffset + (m * Layout::kThreads + Layout::thread_index()) * 16);
        softmax[m].max[0] = __int_as_float(state.x);
        softmax[m].max[1] = __int_as_float(state.y);
        softmax[m].sum[0] = __int_as_float(state.z);
        softmax[m].sum[1] = __int_as_float(state.w);
      }
    }
  }

  static __device__ __forceinline__ void copy_async_wait_all() {
    copy_async_commit();
    copy_async_wait<0>();
  }

  __device__ __forceinline__ void finish(float (&o)[kSlabs][kValueDim / 2], PrefillSoftmax (&softmax)[kSlabs]) const {
    const float scale = softmax_scale();
    const Tile tile = unit_tile();
    if (Layout::first_row(0) < tile.rows()) {
#pragma unroll
      for (int m = 0; m < kSlabs; m++) write(tile, m, o[m], softmax[m], scale);
    }
    if (tile.item.parts > 1) {
      const int crew = threadIdx.x / Parts::kCrewThreads;
      constexpr int kCrewRows = Shape::kTileRows / (Layout::kThreads / Parts::kCrewThreads);
      const int end = min((crew + 1) * kCrewRows, tile.rows());
      if (crew * kCrewRows < end) {
        Parts::finish(params, tile, output_context(), crew, 1 + crew, crew * kCrewRows, end);
      }
    }
  }

  // A slab's output, or its partial state.
  __device__ __forceinline__ void write(const Tile& tile, int slab, float (&o)[kValueDim / 2], PrefillSoftmax& softmax,
                                        float scale) const {
    float value_scale = 1.f;
    if constexpr (Shape::kHasScales) value_scale = __ldg(params.value_scales + tile.kv_head());
    softmax.gather();
    const bool whole = tile.item.parts <= 1;
    if constexpr (Hooks::kHasSink) {
      if (whole) {
        const int row = Layout::own_row(slab);
        softmax.join(0, Hooks::sink(params.variant, tile.head_of(row)), scale);
        softmax.join(1, Hooks::sink(params.variant, tile.head_of(row + 8)), scale);
      }
    }
    Products::rescale(o, make_float2(whole ? softmax.inverse(0) * value_scale : value_scale,
                                     whole ? softmax.inverse(1) * value_scale : value_scale));
    if constexpr (Shape::kQuantised) {  // of two tiles one had the even elements of headDim, one the odd ones
#pragma unroll
      for (int j = 0; j < kValueDim / 8; j += 2) {
#pragma unroll
        for (int r = 0; r < 4; r += 2) {
          const float odd = o[4 * j + r + 1];
          o[4 * j + r + 1] = o[4 * j + 4 + r];
          o[4 * j + 4 + r] = odd;
        }
      }
    }
    if (whole) {
      if constexpr (Hooks::kTransformsOutput) {
        const int row = Layout::own_row(slab);
        const float2 lse =
            make_float2(log_sum_exp(tile, softmax, 0, row, scale), log_sum_exp(tile, softmax, 1, row, scale));
        PrefillElements<Shape>::transform_output(o, params, tile, output_context(), row, lse);
      }
      write_rows(tile, slab, o, softmax, scale);
    } else {
      Parts::store(params, tile, Layout::own_row(slab), o, softmax, scale);
    }
  }

  // Of row `row` + 8 r, in base 2.
  __device__ __forceinline__ float log_sum_exp(const Tile& tile, const PrefillSoftmax& softmax, int r, int row,
                                               float scale) const {
    const float lse = softmax.lse(r, scale);
    if constexpr (Hooks::kHasSink) return fmaxf(lse, Hooks::sink(params.variant, tile.head_of(row + 8 * r)));
    return lse;
  }

  __device__ __forceinline__ ItemContext output_context() const {
    if constexpr (Hooks::kTransformsOutput) return Layout::context_at(place);
    return {};
  }

  // A slab's output and log-sum-exp, by way of the warp's own rows of Q: 16 bytes a thread.
  __device__ __forceinline__ void write_rows(const Tile& tile, int slab, const float (&o)[kValueDim / 2],
                                             const PrefillSoftmax& softmax, float scale) const {
    const int lane = threadIdx.x & 31, first = Layout::first_row(slab), row = Layout::own_row(slab);
    __syncwarp();  // the warp has read its Q
#pragma unroll
    for (int j = 0; j < kValueDim / 8; j++) {
      const int element = Shape::pair_element(j, lane & 3), chunk = element / 8;
      const u32 target = base + chunk / Shape::kRowChunks * Layout::kQueryColumnBytes + row * Shape::kRowBytes +
                         Shape::swizzled(chunk % Shape::kRowChunks, row) * 16 + element % 8 * 2;
      store_shared(target, Element::pack(o[4 * j], o[4 * j + 1]));
      store_shared(target + 8 * Shape::kRowBytes, Element::pack(o[4 * j + 2], o[4 * j + 3]));
    }
    __syncwarp();
    constexpr int kRowsAtOnce = 32 / Shape::kRowChunks;
    const int chunk = lane % Shape::kRowChunks;
#pragma unroll
    for (int i = 0; i < 16; i += kRowsAtOnce) {
      const int at = first + i + lane / Shape::kRowChunks;
      if (at < tile.rows()) {
        u16* target = params.output + Layout::times(tile.item.row + Tile::token_of(at), params.output_row_stride) +
                      Layout::times(tile.head_of(at), params.output_head_stride) + chunk * 8;
        const u32 source = base + at * Shape::kRowBytes + Shape::swizzled(chunk, at) * 16;
#pragma unroll
        for (int c = 0; c < Shape::kValueColumns; c++) {
          *reinterpret_cast<int4*>(target + c * Shape::kColumn) = load_shared(source + c * Layout::kQueryColumnBytes);
        }
      }
    }
    if (params.lse != nullptr && (lane & 3) == 0) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        const int at = row + 8 * r;
        if (at < tile.rows()) {
          const float lse = log_sum_exp(tile, softmax, r, row, scale);
          // Below 2^32: the query has a hundred times as many bytes.
          params.lse[static_cast<u32>(tile.item.row + Tile::token_of(at)) * Shape::kHeads + tile.head_of(at)] = lse;
        }
      }
    }
  }
};

}  // namespace flashinfer
