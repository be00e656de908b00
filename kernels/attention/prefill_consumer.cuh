// A consuming warpgroup of the Hopper prefill kernel: 64 query rows of every tile.
//
// Step n: S = Q K[n]^T and O += P V[n + 1] go to the tensor cores in one turn; then the next warpgroup has its turn while
// this one makes P from S. The first S of a tile goes together with the last P V of the tile before, so that the tensor
// cores see no prologue; the very first tile has no predecessor and the end of the list no successor, where the idle half
// of the pair works on whatever lies there and is thrown away: a branch around wgmma would serialise all of them.
// All warpgroups run this one body: a second copy would not fit the instruction cache beside it.
#pragma once

#include "attention/prefill_elements.cuh"
#include "attention/prefill_hooks.cuh"
#include "attention/prefill_layout.cuh"
#include "attention/prefill_parts.cuh"
#include "attention/prefill_softmax.cuh"
#include "core/wgmma.cuh"

namespace flashinfer {

#ifdef __CUDA_ARCH_FEAT_SM90_ALL

template <typename Shape>
struct PrefillConsumer {
  using Layout = HopperLayout<Shape>;
  using Tile = PrefillTile<Shape>;
  using Parts = PrefillParts<Shape>;
  using Hooks = typename Shape::Hooks;
  using Element = typename Shape::Element;
  using MathElement = typename Shape::MathElement;

  static constexpr int kHeadDim = Shape::kHeadDim;
  static constexpr int kValueDim = Shape::kValueDim;
  static constexpr int kBlockTokens = Shape::kBlockTokens;
  static constexpr int kThreads = Layout::kConsumers * 128;
  static constexpr int kQuerySteps = kHeadDim / 16;
  static constexpr int kValueSteps = kBlockTokens / 16;
  static constexpr int kColumnSteps = Shape::kColumn / 16;  // steps of k within a column

  // Whether scores without a mask between are often weighed at less cost, for which a window beside a preparer leaves no registers; and
  // whether weights have the range that maxima may stand still.
  static constexpr bool kWeighsSmall =
      Hooks::kHasCubic && !Shape::Variant::kMasksLogits && !(Hooks::kBounds && Layout::kPrepares);
  static constexpr bool kWeighsFreely = kWeighsSmall && IsSame<MathElement, BFloat16>::value;
  // A logit of base 2: sums of 2^20 times that weight, and values of 2^20, are far from infinity.
  static constexpr float kMostFree = 80.f;
  static constexpr bool kHasSquares = Layout::kHasSquares;
  // Where scores' squares are kept slots are counted, if they are a power of two.
  static constexpr bool kCounts = kWeighsSmall && kHasSquares &&
                                  power_of_two(Layout::kKeyStages) == Layout::kKeyStages &&
                                  power_of_two(Layout::kValueStages) == Layout::kValueStages;

  // Whether such scores of a block stay until their weights have been looked at. It takes queries times a power of 2, and registers; two consumers
  // have instructions to spare.
  static constexpr bool kKeepsScores = kWeighsFreely && kHasSquares && Layout::kConsumers == 3 && kBlockTokens == 64 &&
                                       !Shape::kDecodes && !Shape::kHasScales && !Hooks::kRotates &&
                                       !Hooks::kTransformsQuery;

  // Where nobody else turns queries, the warps that take them do.
  static constexpr bool kTurnsQuery = Hooks::kRotates && !Layout::kPrepares;
  static constexpr bool kTransformsQuery = Hooks::kTransformsQuery || kTurnsQuery;

  enum Barrier { kZeroedValues = 1, kTurn = 2, kParts = kTurn + Layout::kConsumers };

  const PrefillParams& params;
  u32 base;
  int group =
      __shfl_sync(~0u, threadIdx.x >> 7, 0) - 1;  // which consumer this is; of a warp, the compiler sees, one number
  int thread = threadIdx.x & 127;
  int kept_lane = threadIdx.x & 31;
  int row = group * 64 + (thread >> 5) * 16 + (kept_lane >> 2);  // this thread holds rows row and row + 8 of the tile
  float scale;                                                   // of the softmax; of a quantised cache, the tile's
  float slack;                                                   // 2^8 in terms of scores
  SmallScores<kHasSquares, kKeepsScores> small;                  // of kWeighsSmall; as scale
  float bound;                                                   // of them, where maxima stand still
  int seen_by_all;  // tokens of the tile's range that every row sees: one number for all consumers, or the compiler
                    // takes the loops for divergent and moves descriptors of wgmma through registers of threads
  int not_seen;  // for a variant that bounds keys: so many from the range's start are hidden from the tile's last row
  bool idle;     // whether rows of the tile are nobody's
  // Zeros, which the compiler does not know: see matrix_descriptor.
  u32 zeros[3] = {sign(params.plan->count), sign(params.plan->heads), sign(__float_as_int(scale))};
  RingCounter<Layout::kKeyStages, kCounts> keys;  // of the next K, and the next V
  RingCounter<Layout::kValueStages, kCounts> values;
  int adds = 1;  // 0: the pending P V is the first of its tile and overwrites O

  float o[kValueDim / 2];
  float s[kBlockTokens / 2];
  u32 p[kValueSteps][4];
  u32 q[Layout::kQueryInRegisters ? kQuerySteps : 1][4];
  PrefillSoftmax softmax;
  PrefillMask<Shape> bits;  // for a variant that has them

  __device__ __forceinline__ PrefillConsumer(const PrefillParams& arguments, u32 shared_base)
      : params(arguments), base(shared_base), scale(arguments.plan->scale_log2), slack(__fdividef(8.f, scale)) {
#pragma unroll
    for (int i = 0; i < kValueDim / 2; i++) o[i] = 0.f;
#pragma unroll
    for (int i = 0; i < kBlockTokens / 2; i++) s[i] = 0.f;
#pragma unroll
    for (int i = 0; i < kValueSteps; i++) p[i][0] = p[i][1] = p[i][2] = p[i][3] = 0;
    if constexpr (Hooks::kRescales && !Shape::kHasScales) take_scale(score_scale(0));
    softmax.clear(lowest());
  }

  __device__ __forceinline__ void run() {
    wait_for_dependency();
    if (group == Layout::kConsumers - 1) end_turn();  // consumer 0 has the first turn
    for (u32 number = 0;; number++) {
      const float scale_before = scale;
      const int blocks = take(number);
      const bool exists = blocks > 0;

      // The first block, with the last P V of the tile before.
      if (exists) {
        if constexpr (kTransformsQuery) {
          transform_query(number);
        } else {
          wait_for_query(number);
        }
      }
      if constexpr (Layout::kQueryInRegisters) {
        load_query();
        if (exists) release(Layout::query_empty(base, query_part()));
      }
      if (exists) wait_for_block(Layout::key_ready(base, keys.slot()), keys.phase());
      if (number > 0) wait_for_block(Layout::value_ready(base, values.slot()), values.phase());
      const auto line = this->line(number);
      begin_turn();
      multiply_keys(line);
      multiply_values();
      end_turn();
      const bool masked = hides(number, blocks - 1);
      const auto made = hooks(number, blocks - 1, true);
      wgmma_wait<1>();
      keep(s);
      if (exists) release_keys();
      if (!Layout::kQueryInRegisters && exists && blocks == 1) release(Layout::query_empty(base, query_part()));
      PrefillSoftmax finished = softmax;
      if (!Layout::kGathersLate) finished.gather();
      softmax.clear(lowest());
      const float2 height = shape(made, line, number, blocks - 1, masked);
      float2 factor;
      softmax.raise(s, scale, slack, factor, height);
      softmax.weigh(s, scale, masked || Hooks::kVisits, height);
      wgmma_wait<0>();
      keep(o);
      if (number > 0) release_values();
      round_probabilities(s);
      if (number > 0) {
        if (Layout::kGathersLate) finished.gather();
        write(number - 1, finished, scale_before);
        mbarrier_arrive(Layout::item_empty(base, (number - 1) % Layout::kItems));
      }
      if (!exists) break;
      adds = 0;
      // Of K what lies behind the end is masked, and of what is gathered V is zero there.
      if constexpr (!Layout::kGathers) {
        const int there = tokens_of(number) - start_of(number, blocks - 1);
        if (there < kBlockTokens) zero_values(there);
      }

      // The other blocks, downwards. The code of the mask costs time where it is skipped, so it has steps of its own; but a
      // variant that bounds keys comes back to it.
      int n = blocks - 2;
      factor = make_float2(1.f, 1.f);
      if constexpr (Hooks::kBounds) {
#pragma unroll 1
        for (; n >= 0; n--) step(line, number, n, hides(number, n), factor);
      } else {
#pragma unroll 1
        for (; n >= 0 && (hides(number, n) || weighs_each()); n--) step(line, number, n, true, factor);
#pragma unroll 1
        for (; n >= 0; n--) step(line, number, n, false, factor);
      }
    }
    if (lane() == 0) bulk_wait();
  }

 private:
  // Where registers are scarce it is read again.
  __device__ __forceinline__ int lane() const { return Shape::kIsScarce ? lane_now() : kept_lane; }

  static __device__ __forceinline__ u32 sign(i32 positive) { return static_cast<u32>(positive) >> 31; }

  // K's, Q's or V's; where slots are counted, the compiler does not know either that it is the same in every step, and V's can be K's. Where
  // registers are scarce, signs of what is kept anyway, for which a preparer leaves no room.
  __device__ __forceinline__ u32 zero(int which) const {
    if constexpr (kCounts) return anew(zeros[which % 2]);
    if constexpr (Shape::kIsScarce && !Layout::kPrepares) return sign(which == 1 ? group : static_cast<i32>(base));
    return zeros[which];
  }

  // Block n of tile `number`, which is not the tile's first. carried: a factor, of no meaning. One without a value has registers from the
  // kernel's start on; where scores are weighed at less cost that is better all the same.
  template <typename TileLine>
  __device__ __forceinline__ void step(const TileLine& line, u32 number, int n, bool masked, float2& carried) {
    wait_for_block(Layout::key_ready(base, keys.slot()), keys.phase());
    begin_turn();
    multiply_keys(line);
    wait_for_block(Layout::value_ready(base, values.slot()), values.phase());
    multiply_values();
    adds = 1;
    end_turn();
    const auto made = early_hooks(number, n);
    wgmma_wait<1>();
    keep(s);
    release_keys();
    if (!Layout::kQueryInRegisters && n == 0) release(Layout::query_empty(base, query_part()));
    constexpr int kScores = kBlockTokens / 2, kHalf = kScores / 8 * 4;
    if constexpr (kKeepsScores) {
      if (!masked) {
        constexpr int kEarly = kScores / 8 * 5;  // beside products; half is 1 % slower
        float weights[kScores];
        float2 sums;
        PrefillSoftmax::weigh_clamped(weights, sums, s, 0, kEarly, small);
        wgmma_wait<0>();
        keep(o);
        release_values();
        PrefillSoftmax::weigh_clamped(weights, sums, s, kEarly, kScores, small);
        round_probabilities(weights);
        if (__all_sync(~0u, small.cover(sums))) {
          softmax.sum[0] += sums.x;
          softmax.sum[1] += sums.y;
          return;
        }
      }
    }
    const bool is_small = weighs_small(masked);
    if constexpr (kWeighsSmall && !kKeepsScores && !Hooks::kBounds && !Layout::kPrepares) {
      if (is_small) {
        // One half beside products and one beside rounding: at once they would leave products fewer turns.
        weigh_small(0, kHalf);
        wgmma_wait<0>();
        keep(o);
        release_values();
        weigh_small(kHalf, kScores);
        round_probabilities(s);
        return;
      }
    }
    float2 unset;
    float2& factor = kWeighsSmall ? unset : carried;
    bool raised = false;
    if (is_small) {
      weigh_small(0, kScores);
    } else {
      const float2 height = shape(late_hooks(made, number, n), line, number, n, masked);
      raised = softmax.raise(s, scale, slack, factor, height);
      softmax.weigh(s, scale, masked || Hooks::kVisits, height);
    }
    if (!kKeepsScores || masked) {
      wgmma_wait<0>();
      keep(o);
      release_values();
    }
    round_probabilities(s);
    if (raised) rescale(factor);
  }

  // The token of a tile's range at which block n begins.
  __device__ __forceinline__ int start_of(u32 number, int n) const {
    return Hooks::kSkips ? Layout::tile(base, number).start_of(n) : n * kBlockTokens;
  }

  __device__ __forceinline__ int tokens_of(u32 number) const {
    const Tile tile = Layout::tile(base, number);
    return tile.item.end - tile.item.begin;
  }

  // The first of this warp's rows.
  __device__ __forceinline__ int warp_row() const { return group * 64 + (thread >> 5) * 16; }

  __device__ __forceinline__ u32 query_part() const { return Layout::kQueryParts > 1 ? group : 0; }

  // A block of K or V. What threads copied becomes visible to wgmma here.
  static __device__ __forceinline__ void wait_for_block(u32 barrier, u32 phase) {
    mbarrier_wait(barrier, phase);
    if (Layout::kGathers && !Layout::kWidens) async_proxy_fence();
  }

  __device__ __forceinline__ void release_keys() {
    release(Layout::key_done(base, keys.slot()));
    keys.next();
  }

  __device__ __forceinline__ void release_values() {
    release(Layout::value_done(base, values.slot()));
    values.next();
  }

  // One arrival of each warp, or of each thread.
  __device__ __forceinline__ void release(u32 barrier) const {
    if (Layout::kConsumerArrivals > Layout::kConsumerWarps || lane() == 0) mbarrier_arrive(barrier);
  }

  // Of scores, times which they are logits.
  __device__ __forceinline__ void take_scale(float scores) {
    scale = Hooks::softmax_scale(scores, params.variant);
    slack = weighs_freely() ? -negative_infinity() : __fdividef(8.f, scale);
    if constexpr (kWeighsSmall) {
      const float unit = Shape::Variant::unit(scores, Hooks::arguments(params.variant));
      small.set(Shape::Variant::kCubic, weighs_freely() || !kWeighsFreely ? unit : 0.f, scale);
      if constexpr (!kKeepsScores) bound = small.bound(Shape::Variant::kCubic.most * small.reach);
    }
  }

  // Waits for tile `number` and returns its blocks, or 0 at the end of the list.
  __device__ __forceinline__ int take(u32 number) {
    mbarrier_wait(Layout::item_full(base, number % Layout::kItems), (number / Layout::kItems) & 1);
    const Tile tile = Layout::tile(base, number);
    seen_by_all = tile.limit_of(0) - tile.item.begin;
    idle = tile.rows() < Shape::kTileRows;
    if constexpr (Hooks::kBounds) {
      if (tile.exists()) {
        not_seen = PrefillHooks<Shape>::first_key(tile, Layout::context(base, number), Shape::kTileRows - 1,
                                                  Hooks::arguments(params.variant)) -
                   tile.item.begin;
      }
    }
    if constexpr (Shape::kHasScales) {
      if (tile.exists()) take_scale(score_scale(number));
    }
    return Layout::blocks_of(tile);
  }

  __device__ __forceinline__ u16* output(const Tile& tile, int at) const {
    return params.output + (tile.item.row + tile.token_of(at)) * params.output_row_stride +
           tile.head_of(at) * params.output_head_stride;
  }

  __device__ __forceinline__ float* lse(const Tile& tile, int at) const {
    return params.lse + static_cast<i64>(tile.item.row + tile.token_of(at)) * Shape::kHeads + tile.head_of(at);
  }

  // Rows behind the tile's own hold other queries, or what lay there: their scores would have a say in when the warp's maxima
  // move, and so in the last bits of its own rows. Zeros have none.
  __device__ __forceinline__ void clear_idle_rows(u32 number) const {
    const int first = warp_row(), rows = Layout::tile(base, number).rows();
    if (rows >= first + 16) return;
#pragma unroll 1
    for (int i = max(0, rows - first) * Shape::kHeadChunks + lane(); i < 16 * Shape::kHeadChunks; i += 32) {
      const int at = first + i / Shape::kHeadChunks, chunk = i % Shape::kHeadChunks;
      store_shared(base + chunk / Shape::kRowChunks * Layout::kQueryColumnBytes + at * Shape::kRowBytes +
                       chunk % Shape::kRowChunks * 16,
                   make_int4(0, 0, 0, 0));
    }
    async_proxy_fence();  // before products, or the next Q's copy
    __syncwarp();
  }

  __device__ __forceinline__ void wait_for_query(u32 number) const {
    mbarrier_wait(Layout::query_ready(base, query_part()), number & 1);
    if (idle) clear_idle_rows(number);
    if constexpr (kKeepsScores) multiply_query();
  }

  // This warp's 16 rows by the power of 2 that small scores want to be clamped at.
  __device__ __forceinline__ void multiply_query() const {
    constexpr int kEach = 16 * Shape::kHeadChunks / 32;
    const u32 two = MathElement::pack(small.query, small.query);
    const auto place = [&](int i) {
      const int at = i * 32 + lane(), chunk = at % Shape::kHeadChunks;
      return base + chunk / Shape::kRowChunks * Layout::kQueryColumnBytes +
             (warp_row() + at / Shape::kHeadChunks) * Shape::kRowBytes + chunk % Shape::kRowChunks * 16;
    };
    int4 x[kEach];
#pragma unroll
    for (int i = 0; i < kEach; i++) x[i] = load_shared(place(i));
#pragma unroll
    for (int i = 0; i < kEach; i++) {
      store_shared(place(i), make_int4(multiply_bf16x2(x[i].x, two), multiply_bf16x2(x[i].y, two),
                                       multiply_bf16x2(x[i].z, two), multiply_bf16x2(x[i].w, two)));
    }
    async_proxy_fence();  // before products, or the next Q's copy
    __syncwarp();
  }

  // Waits for this warp's rows of Q, and lets the variant have its say on them, or turns them.
  __device__ __forceinline__ void transform_query(u32 number) const {
    using Elements = PrefillElements<Shape>;
    const Tile tile = Layout::tile(base, number);
    const ItemContext context = Layout::context(base, number);
    const int end = min(warp_row() + 16, tile.rows());
    const auto address = [&](int row, int chunk) {
      return base + chunk / Shape::kRowChunks * Layout::kQueryColumnBytes + row * Shape::kRowBytes +
             Shape::swizzled(chunk % Shape::kRowChunks, row) * 16;
    };
    if constexpr (kTurnsQuery) {
      Elements::turn_query(params, tile, context, warp_row(), end, address, [&] { wait_for_query(number); });
    } else {
      wait_for_query(number);
      Elements::transform_query(params, tile, context, warp_row(), end, address);
    }
    async_proxy_fence();  // before products, or the next Q's copy
    __syncwarp();
  }

  // This warp's 16 rows of Q as operands. The slot may only be released when they have arrived: without the dependency on
  // all of them the copy of the next Q overtakes the reads.
  __device__ __forceinline__ void load_query() {
    const int at = warp_row() + (lane() & 15);
    u32 all = 0;
#pragma unroll
    for (int k = 0; k < kQuerySteps; k++) {
      const int chunk = Shape::swizzled(k % kColumnSteps * 2 + (lane() >> 4), at);
      ldmatrix(q[k], base + k / kColumnSteps * Layout::kQueryColumnBytes + at * Shape::kRowBytes + chunk * 16);
      all |= q[k][0] | q[k][1] | q[k][2] | q[k][3];
    }
    asm volatile("{\n .reg .pred p;\n setp.eq.u32 p, %0, 0xfedcba97;\n @p nanosleep.u32 1;\n}" ::"r"(all) : "memory");
    __syncwarp();
  }

  // My turn on the tensor cores, behind that of the consumer before me.
  __device__ __forceinline__ void begin_turn() {
    named_barrier_sync(kTurn + group, 2 * 128);
    keep(s);
    keep(o);
    wgmma_fence();
  }

  __device__ __forceinline__ void end_turn() {
    named_barrier_arrive(kTurn + (group == Layout::kConsumers - 1 ? 0 : group + 1), 2 * 128);
  }

  template <typename TileLine>
  __device__ __forceinline__ void multiply_keys(const TileLine& line) {
    // At headDim 256 no register is left for this zero.
    const u32 key_zero = kHeadDim == 256 ? 0 : zero(0);
    const u64 block =
        advance(matrix_descriptor<Shape::kRowBytes>(base + Layout::kKeyOffset, 16, Layout::kKeyGroupStride, key_zero),
                keys.slot() * (Shape::kBlockBytes / 16));
    u64 query =
        matrix_descriptor<Shape::kRowBytes>(base + group * 64 * Shape::kRowBytes, 16, Layout::kGroupBytes, zero(1));
    // By nothing, which the compiler does not know: else it keeps descriptors of Q over all steps, more than it has uniform registers for.
    if constexpr (kHeadDim == 256) query = advance(query, anew(keys.slot()) >> 16);
    if constexpr (Hooks::kAddsLine) {
      u32 slopes[4];
      line.operand(slopes);
      wgmma<MathElement, false>(s, slopes, repeated_descriptor(base + Layout::kLineOffset, key_zero), 0);
    }
#pragma unroll
    for (int k = 0; k < kQuerySteps; k++) {
      const u64 key = advance(block, k / kColumnSteps * (Layout::kColumnStride / 16) + k % kColumnSteps * 2);
      if constexpr (Layout::kQueryInRegisters) {
        wgmma<MathElement, false>(s, q[k], key, k > 0 || Hooks::kAddsLine);
      } else {
        const u32 at = k / kColumnSteps * (Layout::kQueryColumnBytes / 16) + k % kColumnSteps * 2;
        wgmma<MathElement, false>(s, advance(query, at), key, k > 0 || Hooks::kAddsLine);
      }
    }
    wgmma_commit();
  }

  __device__ __forceinline__ void multiply_values() {
    wgmma_fence();
    const u64 block = advance(matrix_descriptor<Shape::kRowBytes>(base + Layout::kValueOffset, Layout::kColumnStride,
                                                                  Layout::kValueGroupStride, zero(2)),
                              values.slot() * (Shape::kValueBlockBytes / 16));
#pragma unroll
    for (int k = 0; k < kValueSteps; k++) {
      const u64 value = advance(block, k * 2 * (Layout::kValueGroupStride / 16));
      if constexpr (Layout::kHalvesOutput) {
        constexpr int kHalf = kValueDim / 4;
        float(&low)[kHalf] = *reinterpret_cast<float(*)[kHalf]>(o);
        float(&high)[kHalf] = *reinterpret_cast<float(*)[kHalf]>(o + kHalf);
        wgmma<MathElement, true>(low, p[k], value, k > 0 ? 1 : adds);
        wgmma<MathElement, true>(high, p[k], advance(value, Shape::kValueColumns / 2 * (Layout::kColumnStride / 16)),
                                 k > 0 ? 1 : adds);
      } else {
        wgmma<MathElement, true>(o, p[k], value, k > 0 ? 1 : adds);
      }
    }
    wgmma_commit();
  }

  // What turns a tile's scores into logits: smScale, and the scale of its keys. Where a variant transforms logits, scale is that of what it
  // makes of them. Read again at each use, since registers are scarce.
  __device__ __forceinline__ float score_scale(u32 number) const {
    float scale = __int_as_float(load_ahead(reinterpret_cast<const i32*>(&params.plan->scale_log2))) * Hooks::kLn2;
    if constexpr (kKeepsScores) scale *= small.inverse();
    if constexpr (Shape::kHasScales) scale *= __ldg(params.key_scales + Layout::tile(base, number).kv_head());
    return scale;
  }

  // Whether a row of the tile may not see all of block n.
  __device__ __forceinline__ bool hides(u32 number, int n) const {
    const int start = start_of(number, n);
    if (Hooks::kSkips && start + kBlockTokens > Layout::tile(base, number).skipped.before) return true;
    return start + kBlockTokens > seen_by_all || (Hooks::kBounds && start < not_seen);
  }

  // What a variant will need to shape the scores with block n of a tile, which may be its first.
  struct NoHooks {};
  __device__ __forceinline__ auto hooks(u32 number, int n, bool first) {
    if constexpr (Shape::Variant::kMasksBits) {
      if (first || bits.begins(n)) {
        bits.load(params, Layout::tile(base, number), Layout::context(base, number), warp_row(), n);
      }
    }
    if constexpr (Hooks::kVisits) {
      const Tile tile = Layout::tile(base, number);
      return PrefillHooks<Shape>(params, tile, Layout::context(base, number), row, tile.item.begin + tile.start_of(n),
                                 score_scale(number), lane());
    } else {
      return NoHooks();
    }
  }

  // The same before it is known whether they are wanted, if mostly they are not; and then.
  __device__ __forceinline__ auto early_hooks(u32 number, int n) {
    if constexpr (kWeighsSmall) {
      return NoHooks();
    } else {
      return hooks(number, n, false);
    }
  }
  template <typename Early>
  __device__ __forceinline__ auto late_hooks(const Early& early, u32 number, int n) {
    if constexpr (kWeighsSmall) {
      return hooks(number, n, false);
    } else {
      return early;
    }
  }

  // What is added to products, if not nothing.
  __device__ __forceinline__ auto line(u32 number) const {
    if constexpr (Hooks::kAddsLine) {
      return PrefillLine<Shape>(params, Layout::tile(base, number), Layout::context(base, number), row,
                                score_scale(number), 0);
    } else {
      return NoHooks();
    }
  }

  // Hides what rows do not see of block n, and lets the variant have its say. Returns what scores of the two rows still lack.
  template <typename Made, typename TileLine>
  __device__ __forceinline__ float2 shape(const Made& made, const TileLine& line, u32 number, int n, bool masked) {
    float2 height = make_float2(0.f, 0.f);
    if constexpr (Hooks::kAddsLine) height = line.height(start_of(number, n));
    if constexpr (Hooks::kAddsLine && Hooks::kRescales && !Hooks::kScalesLine) {
#pragma unroll
      for (int i = 0; i < kBlockTokens / 2; i++) s[i] += i / 2 % 2 == 0 ? height.x : height.y;
      height = make_float2(0.f, 0.f);
    }
    if constexpr (Hooks::kVisits) made.shape(s);
    if constexpr (Hooks::kScalesLine) height = made.shape(height);
    if constexpr (Shape::Variant::kMasksBits) bits.hide(s, warp_row(), row, n);
    if (masked) mask(number, n);
    return height;
  }

  // Whether logits are bounded so that maxima stand at 0.
  __device__ __forceinline__ bool weighs_freely() const { return kWeighsFreely && scale <= kMostFree; }

  // Where maxima begin.
  __device__ __forceinline__ float lowest() const {
    return kWeighsFreely && anew(scale) <= kMostFree ? 0.f : negative_infinity();
  }

  // Whether no scores are to count as small where they are kept. Their steps are those with a mask: one more branch would serialise products.
  __device__ __forceinline__ bool weighs_each() const {
    if constexpr (kKeepsScores) {
      return !small.fits();
    } else {
      return false;
    }
  }

  __device__ __forceinline__ bool weighs_small(bool masked) const {
    if constexpr (kWeighsSmall && !kKeepsScores) {
      return !masked && small.cover(s, bound_now());
    } else {
      return false;
    }
  }

  __device__ __forceinline__ void weigh_small(int from, int to) {
    if constexpr (!kKeepsScores) softmax.template weigh_small<!kWeighsFreely>(s, from, to, scale, small);
  }

  // Of scores that are small: the cubic is right for them, and no maximum rises.
  __device__ __forceinline__ float bound_now() const {
    if constexpr (kWeighsFreely) return bound;
    const float most = fminf(Shape::Variant::kCubic.most, fminf(softmax.max[0], softmax.max[1]) + slack);
    return small.bound(most * small.reach);
  }

  __device__ __forceinline__ void mask(u32 number, int n) {
    const Tile tile = Layout::tile(base, number);
    const int first = tile.item.begin + tile.start_of(n);
    if constexpr (Hooks::kBounds || Hooks::kSkips) {
      PrefillHooks<Shape>::mask(s, params, tile, Layout::context(base, number), row, first, lane());
    } else {
      PrefillSoftmax::mask(s, tile.limit_of(row) - first, tile.limit_of(row + 8) - first, lane());
    }
  }

  __device__ __forceinline__ void round_probabilities(const float (&weights)[kBlockTokens / 2]) {
#pragma unroll
    for (int k = 0; k < kValueSteps; k++) {
#pragma unroll
      for (int i = 0; i < 4; i++) p[k][i] = MathElement::pack(weights[8 * k + 2 * i], weights[8 * k + 2 * i + 1]);
    }
  }

  __device__ __forceinline__ void rescale(float2 factor) {
#pragma unroll
    for (int j = 0; j < kValueDim / 8; j++) {
      o[4 * j] *= factor.x;
      o[4 * j + 1] *= factor.x;
      o[4 * j + 2] *= factor.y;
      o[4 * j + 3] *= factor.y;
    }
  }

  // The next product overwrites O, which the compiler does not know: what stands before this may have its registers.
  __device__ __forceinline__ void forget_output() {
#pragma unroll
    for (int i = 0; i < kValueDim / 2; i++) o[i] = 0.f;
    keep(o);  // here, not on each way that leads here
  }

  // Zeroes the rows of V behind the last token, in the stage of the tile's first block: they may hold NaN, and 0 * NaN is
  // NaN. Of K they are masked.
  __device__ __forceinline__ void zero_values(int first) {
    mbarrier_wait(Layout::value_ready(base, values.slot()), values.phase());
    const u32 block = base + Layout::kValueOffset + values.slot() * Shape::kValueBlockBytes;
#pragma unroll 1
    for (int i = first * Shape::kValueChunks + threadIdx.x - 128; i < kBlockTokens * Shape::kValueChunks;
         i += kThreads) {
      const int token = i / Shape::kValueChunks, chunk = i % Shape::kValueChunks;
      store_shared(block + (token >> 3) * Layout::kValueGroupStride + (token & 7) * Shape::kRowBytes +
                       chunk / Shape::kRowChunks * Layout::kColumnStride + chunk % Shape::kRowChunks * 16,
                   make_int4(0, 0, 0, 0));
    }
    async_proxy_fence();  // before the products read them
    named_barrier_sync(kZeroedValues, kThreads);
  }

  // O and log-sum-exp of a finished tile, each warp for itself: through shared memory, by the copy engine when all of its rows
  // are the item's. A part leaves its state in the workspace instead.
  __device__ __forceinline__ void write(u32 number, PrefillSoftmax finished, float scale) {
    const Tile tile = Layout::tile(base, number);
    if constexpr (Shape::kHasScales) {
      const float value_scale = __ldg(params.value_scales + tile.kv_head());
      rescale(make_float2(value_scale, value_scale));
    }
    ItemContext context = {};
    if constexpr (Hooks::kTransformsOutput) {
      context = Layout::context(base, number);
    }
    if (tile.item.parts > 1) {
      Parts::store(params, tile, row, o, finished, scale);
      Parts::finish(params, tile, context, group, kParts + group, group * 64, min(tile.rows(), group * 64 + 64));
      forget_output();
      return;
    }
    const int lane = lane_now(), warp = (thread_now() >> 5) - 4, first = warp * Layout::kWarpRows,
              row = first + (lane >> 2);
    const int rows = min(tile.rows() - first, Layout::kWarpRows);  // of this warp; 0 or below when it has none
    float sinks[2] = {};
    if constexpr (Hooks::kHasSink) {
#pragma unroll
      for (int r = 0; r < 2; r++) {
        sinks[r] = Hooks::sink(params.variant, tile.head_of(row + 8 * r));
        finished.join(r, sinks[r], scale);
      }
    }
    const auto log_sum_exp = [&](int r) {
      return Hooks::kHasSink ? fmaxf(finished.lse(r, scale), sinks[r]) : finished.lse(r, scale);
    };
    float inverse0 = finished.inverse(0), inverse1 = finished.inverse(1);
    if constexpr (Hooks::kTransformsOutput) {
      rescale(make_float2(inverse0, inverse1));
      PrefillElements<Shape>::transform_output(o, params, tile, context, row,
                                               make_float2(log_sum_exp(0), log_sum_exp(1)));
      inverse0 = inverse1 = 1.f;
    }
    const u32 staged = base + Layout::kOutputOffset + warp * Layout::kOutputBytes;
    const int at = lane & 15;
#pragma unroll
    for (int column = 0; column < Shape::kValueColumns; column += Layout::kOutputColumns) {
      if (lane == 0) bulk_wait_read();  // what was staged before has left
      __syncwarp();
#pragma unroll
      for (int c = 0; c < Layout::kOutputColumns; c++) {
#pragma unroll
        for (int k = 0; k < kColumnSteps; k++) {
          const float* x = o + ((column + c) * kColumnSteps + k) * 8;
          const u32 packed[4] = {
              Element::pack(x[0] * inverse0, x[1] * inverse0), Element::pack(x[2] * inverse1, x[3] * inverse1),
              Element::pack(x[4] * inverse0, x[5] * inverse0), Element::pack(x[6] * inverse1, x[7] * inverse1)};
          stmatrix(staged + c * Layout::kOutputColumnBytes + at * Shape::kRowBytes +
                       Shape::swizzled(k * 2 + (lane >> 4), at) * 16,
                   packed);
        }
      }
      async_proxy_fence();  // before the copy engine reads what was staged
      __syncwarp();
      if (Layout::kWholeRows && rows == Layout::kWarpRows) {
        if (lane == 0) {
          store_tensor(params.output_map, staged, 0, tile.head_of(first), tile.item.row + tile.token_of(first), column);
          bulk_commit();
        }
      } else {
        constexpr int kChunks = Layout::kOutputColumns * Shape::kRowChunks;
#pragma unroll 1
        for (int i = lane; i < rows * kChunks; i += 32) {
          const int r = i / kChunks, c = i % kChunks / Shape::kRowChunks, chunk = i % Shape::kRowChunks;
          *reinterpret_cast<int4*>(output(tile, first + r) + (column + c) * Shape::kColumn + chunk * 8) = load_shared(
              staged + c * Layout::kOutputColumnBytes + r * Shape::kRowBytes + Shape::swizzled(chunk, r) * 16);
        }
      }
    }
    if (params.lse != nullptr && (lane & 3) == 0) {
      if (row < first + rows) *lse(tile, row) = log_sum_exp(0);
      if (row + 8 < first + rows) *lse(tile, row + 8) = log_sum_exp(1);
    }
  }
};

#endif

}  // namespace flashinfer
