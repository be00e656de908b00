// Writes the page-table entries that changed. Grid: enough threads for the list. No shared memory.
#pragma once

#include "core/params.cuh"

extern "C" __global__ void fi_update_page_table(const __grid_constant__ flashinfer::PageTableParams params) {
  const flashinfer::PageTableUpdate* updates = flashinfer::items_of<flashinfer::PageTableUpdate>(params.updates);
  for (int i = blockIdx.x * blockDim.x + threadIdx.x; i < params.updates->count; i += gridDim.x * blockDim.x) {
    params.pages[updates[i].index] = updates[i].page;
  }
}
