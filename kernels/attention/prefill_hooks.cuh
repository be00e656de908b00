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

  Arguments arguments;
  LogitsContext at[2];
  float scale;  // smScale

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

  // Of a tile that skips nothing yet.
  static __device__ __forceinline__ SkippedBlocks skipped(const Tile& tile, const ItemContext& context,
                                                          const PrefillParams& params) {
    const Arguments a = Hooks::arguments(params.variant);
    return tile.skipped_by(Variant::skipped(place(tile, context, 0), a),
                           Variant::skipped(place(tile, context, tile.rows() - 1), a));
  }

  // The block begins at token `block`.
  __device__ __forceinline__ PrefillHooks(const PrefillParams& params, const Tile& tile, const ItemContext& context,
                                          int row, int block, float logits_scale, int lane)
      : arguments(Hooks::arguments(params.variant)), scale(logits_scale) {
#pragma unroll
    for (int r = 0; r < 2; r++) {
      at[r] = place(tile, context, row + 8 * r);
      at[r].kv_position = block + (lane & 3) * 2;
    }
  }

  // Shapes the scores, which lie as PrefillSoftmax says; what the variant hides becomes -inf, but for a mask of bits.
  template <int N>
  __device__ __forceinline__ void shape(float (&s)[N]) const {
    Hooks::shape(s, scale, at, arguments);
  }

  // A line's height, as shape leaves scores.
  __device__ __forceinline__ float2 shape(float2 height) const {
    const float factor = score_share(Variant::line_scale(scale, arguments));
    return make_float2(height.x * factor, height.y * factor);
  }

  // Hides what rows do not see of the block because of its limits.
  template <int N>
  static __device__ __forceinline__ void mask(float (&s)[N], const PrefillParams& params, const Tile& tile,
                                              const ItemContext& context, int row, int block, int lane) {
    block += (lane & 3) * 2;
    const Arguments a = Hooks::arguments(params.variant);
#pragma unroll
    for (int r = 0; r < 2; r++) {
      const int at = anew(row) + 8 * r;  // rows one behind the other: registers are scarce
      const int end = tile.limit_of(at) - block;
      const int first = Hooks::kBounds ? first_key(tile, context, at, a) - block : 0;
      const KeyRange skipped = Hooks::kSkips ? Variant::skipped(place(tile, context, at), a) : KeyRange();
      hide(s, r, [&](int word) {
        u32 seen = columns(first, end, word);
        if (Hooks::kSkips) seen &= ~columns(skipped.first - block, skipped.end - block, word);
        return seen;
      });
    }
  }

  // Hides what row r does not see; seen(i) has a bit for each of 32 columns from 32 i on.
  template <int N, typename Seen>
  static __device__ __forceinline__ void hide(float (&s)[N], int r, Seen seen) {
#pragma unroll
    for (int word = 0; word < (N + 15) / 16; word++) {
      const u32 bits = seen(word);
#pragma unroll
      for (int j = word * 16; j < N && j < word * 16 + 16; j += 4) {
#pragma unroll
        for (int e = 0; e < 2; e++) {
          if (!(bits >> (j * 2 + e) % 32 & 1)) s[j + 2 * r + e] = negative_infinity();
        }
      }
    }
  }

 private:
  // Of 32 columns from 32 i on, those from `first` on, before `end`.
  static __device__ __forceinline__ u32 columns(int first, int end, int i) {
    return from(first - 32 * i) & ~from(end - 32 * i);
  }
  static __device__ __forceinline__ u32 from(int column) { return __funnelshift_lc(0, ~0u, max(column, 0)); }
};

// A mask of bits for 16 rows, a warp's. Their query tokens' bits of a stretch of blocks come at once, to every lane those of one token and
// one block, whose rows ask it for them. A block that they see whole, as most are, costs a look at one bit.
template <typename Shape>
struct PrefillMask {
  using Hooks = typename Shape::Hooks;
  using Tile = PrefillTile<Shape>;

  static constexpr int kPack = Shape::kPack;
  static constexpr int kWords = (Shape::kBlockTokens + 31) / 32;
  static constexpr int kMostTokens = 16 % kPack == 0 ? 16 / kPack : kPack % 16 == 0 ? 1 : (14 + kPack) / kPack + 1;
  static constexpr int kTokens = kMostTokens <= 1   ? 1
                                 : kMostTokens <= 2 ? 2
                                 : kMostTokens <= 4 ? 4
                                 : kMostTokens <= 8 ? 8
                                                    : 16;
  static constexpr int kStretch = 32 / kTokens;  // blocks

  u32 words[kWords];
  u32 whole;  // bit kTokens * i for block i of the stretch

  // Whether block n is the last one of its stretch: blocks are walked downwards.
  static __device__ __forceinline__ bool begins(int n) { return n % kStretch == kStretch - 1; }

  // The stretch of block n of the tile, for the rows from `first` on.
  __device__ __forceinline__ void load(const PrefillParams& params, const Tile& tile, const ItemContext& context,
                                       int first, int n) {
    const int lane = lane_now();
    LogitsContext at = PrefillHooks<Shape>::place(tile, context, first + min(lane % kTokens * kPack, 15));
    at.kv_position = tile.item.begin + tile.start_of(n / kStretch * kStretch + lane / kTokens);
    Shape::Variant::keep_bits(words, at, Hooks::arguments(params.variant));
    u32 all = ~0u;
#pragma unroll
    for (int i = 0; i < kWords; i++) all &= words[i];
    whole = __ballot_sync(~0u, all == ~0u);
#pragma unroll
    for (int i = 1; i < kTokens; i *= 2) whole &= whole >> i;
  }

  // Hides what this thread's rows `row` and `row + 8` do not see of block n.
  __device__ __forceinline__ void hide(float (&s)[Shape::kBlockTokens / 2], int first, int row, int n) const {
    const u32 place = static_cast<u32>(n) % kStretch * kTokens;
    if (whole >> place & 1) return;
#pragma unroll
    for (int r = 0; r < 2; r++) {  // one behind the other: registers are scarce
      const int source = place + Tile::token_of(anew(row) + 8 * r) - Tile::token_of(first);
      PrefillHooks<Shape>::hide(s, r,
                                [&](int i) { return __shfl_sync(~0u, words[i], source) >> (lane_now() & 3) * 2; });
    }
  }
};

// What a thread's rows of a tile add to scores in a straight line.
template <typename Shape>
struct PrefillLine {
  using Hooks = typename Shape::Hooks;

  // Where heads come round every 8 rows, a thread's two rows have one slope.
  static constexpr bool kOneSlope = 8 % Shape::kPack == 0;

  float slope[kOneSlope ? 1 : 2];   // in scores
  int distance[kOneSlope ? 1 : 2];  // from where the line is 0 to column `first` of the tile's range
  u32 pieces[kOneSlope ? 1 : 2];    // of the slope, as operand of a product

  __device__ __forceinline__ PrefillLine(const PrefillParams& params, const PrefillTile<Shape>& tile,
                                         const ItemContext& context, int row, float scale, int first) {
#pragma unroll
    for (int r = 0; r < (kOneSlope ? 1 : 2); r++) {
      const typename Hooks::Arguments arguments = Hooks::arguments(params.variant);
      const Line line = Shape::Variant::line(PrefillHooks<Shape>::place(tile, context, row + 8 * r), arguments);
      slope[r] = line.slope * reciprocal(Shape::Variant::line_scale(scale, arguments));
      // Steeper is no number of f16, and a softmax of one key either way.
      if (IsSame<typename Shape::MathElement, Half>::value && fabsf(slope[r]) > 65504.f) {
        slope[r] = copysignf(65504.f, slope[r]);
      }
      distance[r] = tile.item.begin - line.zero + first;
      pieces[r] = pieces_of(slope[r]);
    }
  }

  // The line from a block's first column on, as one more step of Q K^T: instead of elements of Q the slope in three pieces, which are all
  // of its bits, of K the number of the column, three times. It takes no instruction that products have to make room for. What it lacks
  // is alike for all of a row's scores, and large where sequences are long: it would cost the products their last bits.
  static __device__ __forceinline__ int4 column(int number) {
    using MathElement = typename Shape::MathElement;
    const float x = static_cast<float>(number);
    return make_int4(MathElement::pack(x, x), MathElement::pack(x, 0.f), 0, 0);
  }
  __device__ __forceinline__ void operand(u32 (&a)[4]) const {
    a[0] = pieces[0];
    a[1] = pieces[kOneSlope ? 0 : 1];
    a[2] = a[3] = 0;
  }

  // The same without products, from the thread's first column on.
  template <int N>
  __device__ __forceinline__ void preset(float (&s)[N]) const {
#pragma unroll
    for (int i = 0; i < N; i++) s[i] = slope[kOneSlope ? 0 : i / 2 % 2] * static_cast<float>(i / 4 * 8 + i % 2);
  }

  // What all scores of a row lack in a block so many tokens behind the range's first.
  __device__ __forceinline__ float2 height(int tokens) const {
    const float first = slope[0] * static_cast<float>(distance[0] + tokens);
    if constexpr (kOneSlope) return make_float2(first, __fmaf_rn(slope[0], -8.f / Shape::kPack, first));
    return make_float2(first, slope[kOneSlope ? 0 : 1] * static_cast<float>(distance[kOneSlope ? 0 : 1] + tokens));
  }

 private:
  // Lane l holds elements 2 (l % 4) and the next of its row.
  static __device__ __forceinline__ u32 pieces_of(float x) {
    using MathElement = typename Shape::MathElement;
    const auto rounded = [](float y) { return MathElement::unpack(MathElement::pack(y, 0.f)).x; };
    const float high = rounded(x), middle = rounded(x - high), low = x - high - middle;
    const int place = lane_now() & 3;
    return place == 0 ? MathElement::pack(high, middle) : place == 1 ? MathElement::pack(low, 0.f) : 0;
  }
};

}  // namespace flashinfer
