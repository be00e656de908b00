// The columns of a unit as a warp sees them: the query as operands of the matrix product, and what limits, scales, variants
// and rotations want to know of each.
#pragma once

#include "attention/decode_fragments.cuh"
#include "attention/rotary.cuh"

namespace flashinfer {

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

  // What a variant makes of what this thread fetched.
  __device__ __forceinline__ void transform(const DecodeParams& params, const DecodeUnit<Shape>& unit,
                                            const ItemContext& context, const DecodeCrew<Shape>& crew) {
    using Hooks = typename Shape::Hooks;
    const typename Hooks::Arguments arguments = Hooks::arguments(params.variant);
    const int last = max(unit.head_columns() - 1, 0);
#pragma unroll
    for (int i = 0; i < kFetches; i++) {
      const int index = crew.thread() + i * Shape::kCrewThreads;
      if (kUnitChunks % Shape::kCrewThreads == 0 || index < kUnitChunks) {
        const int column = nearest(index / kChunks, last), head = unit.head_of(column);
        const ElementContext at =
            Hooks::element_place(context, unit.item.row + unit.token_of(column), head, head / Shape::kGroup);
        u32 words[4] = {fetched[i].x, fetched[i].y, fetched[i].z, fetched[i].w};
#pragma unroll
        for (int w = 0; w < 4; w++) {
          const int element = Fragments::query_element(index % kChunks, w);
          words[w] = Hooks::template transform_query<Element>(words[w], at, element, arguments);
        }
        fetched[i] = make_uint4(words[0], words[1], words[2], words[3]);
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

  // A lane turns parts of rows.
  __device__ __forceinline__ void turn_in_place(float* output, const DecodeUnit<Shape>& unit, int lane) const {
    using Row = RotaryRow<typename Shape::Variant, Shape::kHeadDim, Shape::KvElement::kBytes == 1>;
#pragma unroll 1
    for (int index = lane; index < Shape::kUnitColumns * Row::kParts; index += 32) {
      const int column = index / Row::kParts, seen = nearest(column, max(unit.head_columns() - 1, 0));
      Row::template turn<MathElement>(
          index % Row::kParts, [&](int chunk) { return shared_address(output + place_of(column * kChunks + chunk)); },
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

}  // namespace flashinfer
