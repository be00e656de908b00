// The mathematics of one warp, with swapped operands so that N = 8 columns waste nothing at group 8 (mma.sync m16n8k16):
//   S^T [16 tokens x 8 columns] = K tile (A, ldmatrix) x Q^T (B, registers, loaded once per unit)
//   P^T = exp2(S^T * scale - running max), turned from accumulator to B layout by two movmatrix
//   O^T [headDim x 8 columns] += V^T (A, ldmatrix.trans) x P^T
// A warp does this for kWarpTiles tiles of columns, reading K and V once.
// 8-bit elements come out of ldmatrix four to a register: neighbours in headDim (K), or pairs of those for two tokens (V).
//   So the order of headDim inside a step is another one, alike for K and Q, and for V and O.
#pragma once

#include "attention/decode_work.cuh"
#include "attention/rotary.cuh"

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
      return *reinterpret_cast<const uint4*>(row + chunk * 8);
    }
  }

  // Where in headDim row lane / 4 + 8 * half of a step's output stands.
  static __device__ __forceinline__ int output_element(int step, int half, int lane) {
    return step * 16 + (kIs8Bit ? (lane >> 2) * 2 + half : (lane >> 2) + half * 8);
  }
};

// The column of a unit at a place of a tile of 8; those beyond its head's last are that one.
template <typename Shape>
__device__ __forceinline__ int unit_column(int tile, int place, int last) {
  return tile / Shape::kHeadTiles * Shape::kUnitHeadColumns + min(tile % Shape::kHeadTiles * 8 + place, last);
}

// What a variant wants to know of the unit's columns 2c and 2c + 1 of lane column c.
template <typename Shape, bool kWanted = Shape::Hooks::kShapes>
struct ColumnPlaces {};
template <typename Shape>
struct ColumnPlaces<Shape, true> {
  using Hooks = typename Shape::Hooks;
  static constexpr int kTiles = Shape::kWarpTiles;

  LogitsContext place[kTiles][2];
  int first[kTiles][2];  // the first token that the column sees
  typename Hooks::Arguments arguments;

  __device__ __forceinline__ void load_places(const DecodeParams& params, const DecodeUnit<Shape>& unit,
                                              const ItemContext& context, int lane) {
    if (!unit.valid) return;  // hooks are asked about what there is
    arguments = Hooks::arguments(params.variant);
    const int last = max(unit.head_columns() - 1, 0);
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int column = unit_column<Shape>(tile, (lane & 3) * 2 + h, last);
        const int head = unit.head_of(column);
        place[tile][h] = Hooks::place(context, unit.item.row + unit.token_of(column), head, head / Shape::kGroup);
        first[tile][h] = Shape::Variant::first_key(place[tile][h], arguments);
      }
    }
  }
};

// What turns queries and keys, and the position of a unit's first query token.
template <typename Shape, bool kWanted = Shape::Hooks::kRotates>
struct DecodeRotary {};
template <typename Shape>
struct DecodeRotary<Shape, true> {
  using Rotary = flashinfer::Rotary<typename Shape::Variant, Shape::kHeadDim, Shape::KvElement::kBytes == 1>;

  typename Rotary::Arguments angles;
  int position;

  __device__ __forceinline__ void load_position(const DecodeParams& params, const DecodeUnit<Shape>& unit,
                                                const ItemContext& context) {
    angles = Shape::Hooks::arguments(params.variant);
    position = Shape::Hooks::position(context, unit.item.row);
  }
};

// Q of one unit as B operands (lane = 4 * column + row), and what else its columns need.
//
// The threads of the crew fetch Q once, 16 bytes each, and hand it to all warps through the place to merge in, where a warp
// takes it with ldmatrix: as fragments, 4 bytes a lane, every warp would ask for the same rows, 32 bytes at a time. A thread
// puts what it fetched where in that place only itself reads when it merges, once for each warp, so that no further barrier
// is needed. Where registers are short the fragments are taken anew for each product: the place is the warp's own until it
// stores its state there.
template <typename Shape>
struct QueryFragments : ColumnPlaces<Shape>, DecodeRotary<Shape> {
  using Element = typename Shape::Element;
  using MathElement = typename Shape::MathElement;
  using Fragments = KvFragments<Shape>;
  static constexpr int kTiles = Shape::kWarpTiles;
  static constexpr int kHeadTiles = Shape::kHeadTiles;
  static constexpr int kSteps = Shape::kHeadDim / 16;
  static constexpr int kChunks = Shape::kHeadDim / 8;  // of 16 bytes, in a column
  static constexpr int kUnitChunks = Shape::kUnitColumns * kChunks;
  static constexpr int kFetches = (kUnitChunks + Shape::kCrewThreads - 1) / Shape::kCrewThreads;

  uint4 fetched[kFetches];
  u32 at[kTiles][Shape::kKeepsQuery ? kSteps : 1][2];
  u32 address;           // of the warp's place, where Q is not kept
  int limit[kTiles][2];  // one past the last token that columns 2c and 2c + 1 see
  FloatVector<Shape::kUnitHeads>
      scale;  // of the logits, in base 2; in natural units for a variant that transforms them
  FloatVector<Shape::kUnitHeads> value_scale;

  // Starts to fetch, scales too. Columns beyond the unit's repeat its last one: a column's results depend on nothing else,
  // and nobody reads them.
  __device__ __forceinline__ void fetch(const DecodeParams& params, const DecodeUnit<Shape>& unit,
                                        const DecodeCrew<Shape>& crew, float logits_scale) {
#pragma unroll
    for (int i = 0; i < kFetches; i++) fetched[i] = {};  // else the old ones would keep their registers all the time
    if (!unit.valid) return;
    const int last = max(unit.head_columns() - 1, 0);
#pragma unroll
    for (int i = 0; i < kFetches; i++) {
      const int index = crew.thread() + i * Shape::kCrewThreads;
      if (kUnitChunks % Shape::kCrewThreads == 0 || index < kUnitChunks) {
        const int column = nearest(index / kChunks, last);
        const i64 row = unit.item.row + unit.token_of(column);
        const u16* source =
            params.query + row * params.query_row_stride + unit.head_of(column) * params.query_head_stride;
        fetched[i] = Fragments::load_query(source, index % kChunks);
      }
    }
#pragma unroll
    for (int head = 0; head < Shape::kUnitHeads; head++) {
      scale.at[head] = Shape::Hooks::kTransforms ? logits_scale * Shape::Hooks::kLn2 : logits_scale;
      value_scale.at[head] = 1.f;
      if constexpr (Shape::KvElement::kBytes == 1) {
        scale.at[head] *= params.key_scales[unit.kv_head() + head];
        value_scale.at[head] = params.value_scales[unit.kv_head() + head];
      }
    }
  }

  // Puts what this thread fetched into the places of the crew's warps: chunk i where the merge has its vector i.
  __device__ __forceinline__ void put(float* first_output, const DecodeCrew<Shape>& crew) const {
#pragma unroll
    for (int i = 0; i < kFetches; i++) {
      const int index = crew.thread() + i * Shape::kCrewThreads;
      if (kUnitChunks % Shape::kCrewThreads == 0 || index < kUnitChunks) {
        const uint4 chunk = {to_math(fetched[i].x), to_math(fetched[i].y), to_math(fetched[i].z),
                             to_math(fetched[i].w)};
#pragma unroll
        for (int w = 0; w < Shape::kCrewWarps; w++) {
          *reinterpret_cast<uint4*>(first_output + w * Shape::kWarpOutput + place_of(index)) = chunk;
        }
      }
    }
  }

  // Takes the fragments from the warp's place.
  __device__ __forceinline__ void take(float* output, const DecodeUnit<Shape>& unit, int lane) {
    const int last = max(unit.head_columns() - 1, 0);
    if constexpr (!Shape::kKeepsQuery) {
      if constexpr (Shape::Hooks::kRotates) turn_in_place(output, unit, lane);
      address = shared_address(output);
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
      if constexpr (Shape::kKeepsQuery) {
        const int column = unit_column<Shape>(tile, lane & 7, Shape::kUnitHeadColumns - 1);
#pragma unroll
        for (int step = 0; step < kSteps; step += 2) {
          u32 b[4];
          ldmatrix(b, shared_address(output + place_of(column * kChunks + step * 2 + (lane >> 3))));
          at[tile][step][0] = b[0];
          at[tile][step][1] = b[1];
          at[tile][step + 1][0] = b[2];
          at[tile][step + 1][1] = b[3];
        }
        if constexpr (Shape::Hooks::kRotates) {
          turn(at[tile], this->position + unit.token_of(unit_column<Shape>(tile, lane >> 2, last)), lane & 3);
        }
      }
#pragma unroll
      for (int h = 0; h < 2; h++) limit[tile][h] = unit.limit_of(unit_column<Shape>(tile, (lane & 3) * 2 + h, last));
    }
  }

  // The operand of one step.
  __device__ __forceinline__ void read(u32 (&b)[2], int tile, int step, int lane) const {
    if constexpr (Shape::kKeepsQuery) {
      b[0] = at[tile][step][0];
      b[1] = at[tile][step][1];
    } else {
      const int column = unit_column<Shape>(tile, lane & 7, Shape::kUnitHeadColumns - 1);
      ldmatrix(b, address + place_of(column * kChunks + step * 2 + (lane >> 3 & 1)) * 4);
    }
  }

 private:
  // The unit's column nearest to one, in the same head, that the head has: `last` is its last.
  static __device__ __forceinline__ int nearest(int column, int last) {
    return column / Shape::kUnitHeadColumns * Shape::kUnitHeadColumns + min(column % Shape::kUnitHeadColumns, last);
  }

  // Where, in floats, vector `index` of a merge starts.
  static __device__ __forceinline__ int place_of(int index) {
    constexpr int kVectors = Shape::kHeadDim / Shape::kVector;
    return index / kVectors * Shape::kMergeRow + index % kVectors * Shape::kVector;
  }

  // A lane turns whole chunks, with those that turn with them.
  __device__ __forceinline__ void turn_in_place(float* output, const DecodeUnit<Shape>& unit, int lane) const {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
#pragma unroll 1
    for (int index = lane; index < Shape::kUnitColumns * Rotary::kChunks; index += 32) {
      const int column = index / Rotary::kChunks, seen = nearest(column, max(unit.head_columns() - 1, 0));
      Rotary::template turn_chunk<MathElement>(
          index % Rotary::kChunks,
          [&](int step, int half) { return shared_address(output + place_of(column * kChunks + step * 2 + half)); },
          this->position + unit.token_of(seen), this->angles);
    }
    __syncwarp();
  }

  __device__ __forceinline__ void turn(u32 (&q)[kSteps][2], int position, int quad) const {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
    if constexpr (Rotary::kApart) {
      u32 turned[Rotary::kSteps][2];
#pragma unroll
      for (int i = 0; i < 2 * Rotary::kSteps; i++) {
        turned[i / 2][i % 2] = Rotary::template turned<MathElement>([&](int step, int half) { return q[step][half]; },
                                                                    i / 2, i % 2, quad, position, this->angles);
      }
#pragma unroll
      for (int i = 0; i < 2 * Rotary::kSteps; i++) q[i / 2][i % 2] = turned[i / 2][i % 2];
    } else {
#pragma unroll
      for (int step = 0; step < Rotary::kSteps; step++) {
        if (Rotary::is_second(step)) continue;
#pragma unroll
        for (int half = 0; half < 2; half++) {
          Rotary::template turn<MathElement>(q[step][half], q[Rotary::second_of(step)][half], step, half, quad,
                                             position, this->angles);
        }
      }
    }
  }

  static __device__ __forceinline__ u32 to_math(u32 two) {
    if constexpr (IsSame<Element, MathElement>::value) return two;
    const float2 v = Element::unpack(two);
    return MathElement::pack(v.x, v.y);
  }
};

// The online softmax of one warp: O^T of its tokens and, for columns 2c and 2c + 1 of lane column c, max and sum.
template <typename Shape>
struct DecodeAccumulator {
  using MathElement = typename Shape::MathElement;
  using Hooks = typename Shape::Hooks;
  using Fragments = KvFragments<Shape>;
  static constexpr int kTiles = Shape::kWarpTiles;
  static constexpr int kHeadTiles = Shape::kHeadTiles;
  static constexpr int kSteps = Shape::kHeadDim / 16;
  static constexpr int kSlabs = Shape::kSlabs;
  // Two chains of products hide the latency of the instruction, where there are registers for two.
  static constexpr int kChains = kTiles == 1 && (Shape::kKeepsQuery || !Hooks::kRotates) ? 2 : 1;

  float o[kTiles][kSteps][4];
  float max[kTiles][2];
  float sum[kTiles][2];

  __device__ __forceinline__ void clear() {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int i = 0; i < kSteps; i++) {
        o[tile][i][0] = o[tile][i][1] = o[tile][i][2] = o[tile][i][3] = 0.f;
      }
      max[tile][0] = max[tile][1] = negative_infinity();
      sum[tile][0] = sum[tile][1] = 0.f;
    }
  }

  // Takes in the tile in shared memory, which starts at token `begin` and ends before `end`.
  __device__ __forceinline__ void attend(u32 stage, const QueryFragments<Shape>& q, int begin, int end, int lane) {
    const int left = end - begin;
    // x[0], x[1]: token lane / 4 of the slab, columns 2c and 2c + 1; x[2], x[3]: token lane / 4 + 8.
    float x[kSlabs][kTiles][4] = {};
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      if (is_empty(slab, left)) continue;
      float s[kTiles][kChains][4] = {};
      if constexpr (Hooks::kRotates) {
        const int first = begin + slab * Shape::kSlabTokens - missing_rows(slab, left);
        if constexpr (DecodeRotary<Shape>::Rotary::kApart) {
          multiply_apart(s, stage + slab * Shape::kSlabBytes, q, first, lane);
        } else {
          multiply_turned(s, stage + slab * Shape::kSlabBytes, q, first, lane);
        }
      } else {
        multiply(s, stage + slab * Shape::kSlabBytes, q, lane);
      }
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          x[slab][tile][i] =
              (kChains == 2 ? s[tile][0][i] + s[tile][kChains - 1][i] : s[tile][0][i]) * q.scale.at[tile / kHeadTiles];
        }
      }
    }
    if constexpr (Hooks::kShapes) {
      shape(x, q, begin, left, lane);
    } else if (Shape::kQueryTokens > 1 || left < Shape::kTileTokens) {
#pragma unroll
      for (int slab = 0; slab < kSlabs; slab++) {
        const int missing = missing_rows(slab, left);
#pragma unroll
        for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
          for (int i = 0; i < 4; i++) {
            const int row = (lane >> 2) + (i >> 1) * 8, token = begin + slab * Shape::kSlabTokens + row - missing;
            const int limit = Shape::kQueryTokens == 1 ? end : q.limit[tile][i & 1];
            if (row < missing || token >= limit) x[slab][tile][i] = negative_infinity();
          }
        }
      }
    }
    float high[kTiles][2];
    bool rises = false;
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        high[tile][h] = fmaxf(x[0][tile][h], x[0][tile][h + 2]);
#pragma unroll
        for (int slab = 1; slab < kSlabs; slab++) {
          high[tile][h] = fmaxf(high[tile][h], fmaxf(x[slab][tile][h], x[slab][tile][h + 2]));
        }
#pragma unroll
        for (int step = 4; step < 32; step <<= 1) {
          high[tile][h] = fmaxf(high[tile][h], __shfl_xor_sync(~0u, high[tile][h], step));
        }
        rises |= high[tile][h] > max[tile][h];
      }
    }
    if (__any_sync(~0u, rises)) rescale(high);
    u32 p[kSlabs][kTiles][2];
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
        float(&y)[4] = x[slab][tile];
#pragma unroll
        for (int i = 0; i < 4; i++) y[i] = exp2_fast(y[i] - origin(max[tile][i & 1]));
        sum[tile][0] += y[0] + y[2];
        sum[tile][1] += y[1] + y[3];
        p[slab][tile][0] = transpose_fragment(MathElement::pack(y[0], y[1]));
        p[slab][tile][1] = transpose_fragment(MathElement::pack(y[2], y[3]));
      }
    }
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      if (is_empty(slab, left)) continue;
#pragma unroll
      for (int step = 0; step < kSteps; step += Fragments::kSteps) {
#pragma unroll
        for (int head = 0; head < Shape::kUnitHeads; head++) {
          Fragments values;
          values.load_values(stage + Shape::kTileBytes + slab * Shape::kSlabBytes, head * kSteps + step, lane);
#pragma unroll
          for (int i = 0; i < Fragments::kSteps; i++) {
#pragma unroll
            for (int tile = head * kHeadTiles; tile < (head + 1) * kHeadTiles; tile++) {
              MathElement::mma(o[tile][step + i], values.at[i], p[slab][tile][0], p[slab][tile][1]);
            }
          }
        }
      }
    }
  }

  // The sums of all lanes; then puts O, max and sum of so many columns of each KV head where the crew merges them.
  __device__ __forceinline__ void store(float* output, float2* state, int columns, int lane) {
#pragma unroll
    for (int step = 4; step < 32; step <<= 1) {
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int h = 0; h < 2; h++) sum[tile][h] += __shfl_xor_sync(~0u, sum[tile][h], step);
      }
    }
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const int in_head = tile % kHeadTiles * 8 + (lane & 3) * 2 + h;
        if (in_head < columns) {
          const int column = tile / kHeadTiles * Shape::kUnitHeadColumns + in_head;
          float* target = output + column * Shape::kMergeRow;
#pragma unroll
          for (int step = 0; step < kSteps; step++) {
            target[Fragments::output_element(step, 0, lane)] = o[tile][step][h];
            target[Fragments::output_element(step, 1, lane)] = o[tile][step][h + 2];
          }
          if (lane < 4) state[column] = make_float2(max[tile][h], sum[tile][h]);
        }
      }
    }
  }

 private:
  // S^T of a slab.
  static __device__ __forceinline__ void multiply(float (&s)[kTiles][kChains][4], u32 slab,
                                                  const QueryFragments<Shape>& q, int lane) {
#pragma unroll
    for (int step = 0; step < kSteps; step += Fragments::kSteps) {
#pragma unroll
      for (int head = 0; head < Shape::kUnitHeads; head++) {
        Fragments keys;
        keys.load_keys(slab, head * kSteps + step, lane);
#pragma unroll
        for (int i = 0; i < Fragments::kSteps; i++) multiply_step(s, keys.at[i], q, head, step + i, lane);
      }
    }
  }

  // The same with keys that turn, the slab's first at a position. The second step of a pair comes with its first.
  static __device__ __forceinline__ void multiply_turned(float (&s)[kTiles][kChains][4], u32 slab,
                                                         const QueryFragments<Shape>& q, int position, int lane) {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
    constexpr int kAtOnce = Fragments::kSteps;
    // Angles stay in registers from tile to tile if there are any left.
    const int quad = kTiles * Shape::kHeadDim <= 128 ? lane & 3 : anew(lane & 3);
    Fragments keys[Shape::kUnitHeads][kSteps / kAtOnce];
    bool loaded[kSteps / kAtOnce] = {};
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      if (Rotary::is_second(step)) continue;
      const int second = Rotary::second_of(step);
#pragma unroll
      for (int head = 0; head < Shape::kUnitHeads; head++) {
        Fragments(&of)[kSteps / kAtOnce] = keys[head];
        if (!loaded[step / kAtOnce]) of[step / kAtOnce].load_keys(slab, head * kSteps + step, lane);
        if (!loaded[second / kAtOnce] && second / kAtOnce != step / kAtOnce) {
          of[second / kAtOnce].load_keys(slab, head * kSteps + second / kAtOnce * kAtOnce, lane);
        }
        u32(&x)[4] = of[step / kAtOnce].at[step % kAtOnce], (&y)[4] = of[second / kAtOnce].at[second % kAtOnce];
        if (step < Rotary::kSteps) {
#pragma unroll
          for (int i = 0; i < 4; i++) {  // rows lane / 4 and 8 more, then those in the step's second half
            Rotary::template turn<MathElement>(x[i], y[i], step, i >> 1, quad, position + (lane >> 2) + (i & 1) * 8,
                                               q.angles);
          }
        }
        multiply_step(s, x, q, head, step, lane);
        if (second != step) multiply_step(s, y, q, head, second, lane);
      }
      loaded[step / kAtOnce] = loaded[second / kAtOnce] = true;
    }
  }

  // The same where the second elements of pairs are in other lanes: a head's steps that turn are all there before one of them does.
  static __device__ __forceinline__ void multiply_apart(float (&s)[kTiles][kChains][4], u32 slab,
                                                        const QueryFragments<Shape>& q, int position, int lane) {
    using Rotary = typename DecodeRotary<Shape>::Rotary;
    constexpr int kAtOnce = Fragments::kSteps, kTurning = round_up(Rotary::kSteps, kAtOnce);
#pragma unroll
    for (int head = 0; head < Shape::kUnitHeads; head++) {
      Fragments keys[kSteps / kAtOnce];
      const auto load = [&](int step) { keys[step / kAtOnce].load_keys(slab, head * kSteps + step, lane); };
      const auto at = [&](int step, int i) { return keys[step / kAtOnce].at[step % kAtOnce][i]; };
#pragma unroll
      for (int step = 0; step < kTurning; step += kAtOnce) load(step);
#pragma unroll
      for (int step = 0; step < kSteps; step++) {
        if (step >= kTurning && step % kAtOnce == 0) load(step);
        u32 key[4];
#pragma unroll
        for (int i = 0; i < 4; i++) {  // as above
          key[i] = step >= Rotary::kSteps ? at(step, i)
                                          : Rotary::template turned<MathElement>(
                                                [&](int of, int half) { return at(of, half * 2 + (i & 1)); }, step,
                                                i >> 1, lane & 3, position + (lane >> 2) + (i & 1) * 8, q.angles);
        }
        multiply_step(s, key, q, head, step, lane);
      }
    }
  }

  static __device__ __forceinline__ void multiply_step(float (&s)[kTiles][kChains][4], const u32 (&keys)[4],
                                                       const QueryFragments<Shape>& q, int head, int step, int lane) {
#pragma unroll
    for (int tile = head * kHeadTiles; tile < (head + 1) * kHeadTiles; tile++) {
      u32 b[2];
      q.read(b, tile, step, lane);
      MathElement::mma(s[tile][step % kChains], keys, b[0], b[1]);
    }
  }

  // Rows before a slab's first token: a box of the copy engine ends where the sequence does.
  static __device__ __forceinline__ int missing_rows(int slab, int left) {
    return Shape::kTensorCopy ? ::max(0, (slab + 1) * Shape::kSlabTokens - left) : 0;
  }

  // What logits are taken from: with several query tokens, or a variant that hides some, a column may have seen no token
  // yet, and -inf minus -inf would be NaN.
  static __device__ __forceinline__ float origin(float high) {
    return (Shape::kQueryTokens == 1 && !Hooks::kShapes) || high > negative_infinity() ? high : 0.f;
  }

  // What a variant makes of the scores of a tile; those that a column does not see become -inf.
  static __device__ __forceinline__ void shape(float (&x)[kSlabs][kTiles][4], const QueryFragments<Shape>& q, int begin,
                                               int left, int lane) {
#pragma unroll
    for (int slab = 0; slab < kSlabs; slab++) {
      const int missing = missing_rows(slab, left);
#pragma unroll
      for (int tile = 0; tile < kTiles; tile++) {
#pragma unroll
        for (int i = 0; i < 4; i++) {
          const int row = (lane >> 2) + (i >> 1) * 8, token = begin + slab * Shape::kSlabTokens + row - missing;
          const bool sees = row >= missing && token < q.limit[tile][i & 1] && token >= q.first[tile][i & 1];
          LogitsContext at = q.place[tile][i & 1];
          at.kv_position = token;
          float& score = x[slab][tile][i];
          score = sees ? Hooks::shape(score, at, q.arguments) : negative_infinity();
          if constexpr (Hooks::kTransforms) score *= Hooks::kLog2E;
        }
      }
    }
  }

  // Whether a slab of the tile has no token: what lies there may be anything.
  static __device__ __forceinline__ bool is_empty(int slab, int left) {
    return slab > 0 && left <= slab * Shape::kSlabTokens;
  }

  __device__ __forceinline__ void rescale(const float (&high)[kTiles][2]) {
#pragma unroll
    for (int tile = 0; tile < kTiles; tile++) {
      float factor[2];
#pragma unroll
      for (int h = 0; h < 2; h++) {
        const float raised = fmaxf(max[tile][h], high[tile][h]);
        factor[h] = exp2_fast(max[tile][h] - origin(raised));  // 0 at the first tile: the old maximum is -inf
        max[tile][h] = raised;
        sum[tile][h] *= factor[h];
      }
#pragma unroll
      for (int d = 0; d < kSteps; d++) {
        o[tile][d][0] *= factor[0];
        o[tile][d][1] *= factor[1];
        o[tile][d][2] *= factor[0];
        o[tile][d][3] *= factor[1];
      }
    }
  }
};

}  // namespace flashinfer
