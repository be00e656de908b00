// Checked mode: what a kernel does when it meets something that can't be.
#pragma once

#include "core/params.cuh"

namespace flashinfer {

// The page, or page 0 and a note in params.fault when the cache has no such page. The first note of a launch stays.
template <bool kChecked, typename Params>
__device__ __forceinline__ i32 checked_page(const Params& params, i32 page, i32 row, i32 token) {
  if constexpr (kChecked) {
    if (static_cast<u32>(page) >= static_cast<u32>(params.page_count)) {
      u32 before;
      asm volatile("atom.cas.relaxed.gpu.global.b32 %0, [%1], 0, 1;"
                   : "=r"(before)
                   : "l"(&params.fault->kind)
                   : "memory");
      if (before == 0) {
        params.fault->row = row;
        params.fault->token = token;
        params.fault->value = page;
      }
      return 0;
    }
  }
  return page;
}

}  // namespace flashinfer
