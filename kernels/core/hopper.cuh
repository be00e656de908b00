// PTX of sm_90 and later: mbarriers, the bulk tensor copy engine, clusters, programmatic dependent launch. The two
// functions that a portable kernel calls as well do nothing on older chips.
#pragma once

#include "core/params.cuh"
#include "core/types.cuh"

namespace flashinfer {

// Lets the next kernel of the stream start its prologue; harmless without the launch attribute.
__device__ __forceinline__ void launch_dependents() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}

// Waits until the kernel before this one is done and its writes are visible; returns at once without the launch
// attribute.
__device__ __forceinline__ void wait_for_dependency() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
}

__device__ __forceinline__ void mbarrier_init(u32 barrier, u32 arrivals) {
  asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(barrier), "r"(arrivals) : "memory");
}

// Makes initialised barriers visible to the copy engine and to the cluster.
__device__ __forceinline__ void mbarrier_init_fence() {
  asm volatile("fence.mbarrier_init.release.cluster;\nfence.proxy.async.shared::cta;" ::: "memory");
}

__device__ __forceinline__ void mbarrier_expect(u32 barrier, u32 bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void mbarrier_wait(u32 barrier, u32 parity) {
  asm volatile(
      "{\n .reg .pred p;\n"
      " FI_WAIT: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1, 0x989680;\n"
      " @p bra FI_DONE;\n bra FI_WAIT;\n FI_DONE:\n}" ::"r"(barrier),
      "r"(parity)
      : "memory");
}

__device__ __forceinline__ void prefetch_tensor_map(const TensorMap& map) {
  asm volatile("prefetch.tensormap [%0];" ::"l"(&map) : "memory");
}

// Copies a box of a rank-5 tensor to shared memory; completion counts bytes on the barrier.
__device__ __forceinline__ void copy_tensor(u32 shared, const TensorMap& map, u32 barrier, i32 c0, i32 c1, i32 c2,
                                            i32 c3, i32 c4, u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.5d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3,%4,%5,%6,%7}], [%2], %8;" ::"r"(shared),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "r"(c4), "l"(policy)
      : "memory");
}

// True for one lane of a whole warp. The compiler knows that it is one: what it hands to the copy engine needs no loop over lanes.
__device__ __forceinline__ bool elect_one() {
  u32 mine;
  asm volatile("{\n .reg .pred p;\n elect.sync _|p, 0xffffffff;\n selp.u32 %0, 1, 0, p;\n}" : "=r"(mine));
  return mine != 0;
}

__device__ __forceinline__ u32 cluster_rank() {
  u32 rank;
  asm volatile("mov.u32 %0, %cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Which cluster of the grid this is; without clusters every block is one.
__device__ __forceinline__ u32 cluster_index() {
  u32 index;
  asm volatile("mov.u32 %0, %clusterid.x;" : "=r"(index));
  return index;
}

__device__ __forceinline__ u32 cluster_count() {
  u32 count;
  asm volatile("mov.u32 %0, %nclusterid.x;" : "=r"(count));
  return count;
}

__device__ __forceinline__ u32 cluster_size() {
  u32 size;
  asm volatile("mov.u32 %0, %cluster_nctarank;" : "=r"(size));
  return size;
}

// Orders nothing but the barriers that mbarrier_init_fence has published: a release would wait for all memory.
__device__ __forceinline__ void cluster_arrive() {
  asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
}

__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The address in another block's shared memory that corresponds to one in this block's.
__device__ __forceinline__ u32 cluster_address(u32 shared, u32 rank) {
  u32 address;
  asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared), "r"(rank));
  return address;
}

// Stores to another block's shared memory and counts the bytes on a barrier there.
template <int N>
__device__ __forceinline__ void store_cluster(u32 address, u32 barrier, const float (&v)[N]) {
  if constexpr (N == 4) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v4.f32 [%0], {%1,%2,%3,%4}, [%5];" ::"r"(address),
        "f"(v[0]), "f"(v[1]), "f"(v[2]), "f"(v[3]), "r"(barrier)
        : "memory");
  } else if constexpr (N == 2) {
    asm volatile(
        "st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.v2.f32 [%0], {%1,%2}, [%3];" ::"r"(address),
        "f"(v[0]), "f"(v[1]), "r"(barrier)
        : "memory");
  } else {
    static_assert(N == 1, "a thread stores 1, 2 or 4 floats at once");
    asm volatile("st.async.weak.shared::cluster.mbarrier::complete_tx::bytes.f32 [%0], %1, [%2];" ::"r"(address),
                 "f"(v[0]), "r"(barrier)
                 : "memory");
  }
}

__device__ __forceinline__ void mbarrier_arrive(u32 barrier) {
  asm volatile("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(barrier) : "memory");
}

// This thread arrives when all its copies so far (copy_async) are done; its arrival is one of those the barrier waits for.
__device__ __forceinline__ void copy_async_arrive(u32 barrier) {
  asm volatile("cp.async.mbarrier.arrive.noinc.shared::cta.b64 [%0];" ::"r"(barrier) : "memory");
}

// Orders this thread's plain accesses to shared memory before what the copy engine and wgmma do there afterwards.
__device__ __forceinline__ void async_proxy_fence() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }

// Orders what is known to be in global memory before what the copy engine does there afterwards.
__device__ __forceinline__ void global_proxy_fence() { asm volatile("fence.proxy.async.global;" ::: "memory"); }

// L2 policies as createpolicy encodes them; constants cost no register.
enum : u64 { kEvictFirst = 0x12F0000000000000ull, kEvictLast = 0x14F0000000000000ull };

// Copies a box of a rank-4 tensor, as the rank-5 copy_tensor.
__device__ __forceinline__ void copy_tensor(u32 shared, const TensorMap& map, u32 barrier, i32 c0, i32 c1, i32 c2,
                                            i32 c3, u64 policy) {
  asm volatile(
      "cp.async.bulk.tensor.4d.shared::cluster.global.tile.mbarrier::complete_tx::bytes.L2::cache_hint "
      "[%0], [%1, {%3,%4,%5,%6}], [%2], %7;" ::"r"(shared),
      "l"(&map), "r"(barrier), "r"(c0), "r"(c1), "r"(c2), "r"(c3), "l"(policy)
      : "memory");
}

// Copies so many bytes, a multiple of 16, to shared memory; completion counts them on the barrier.
__device__ __forceinline__ void copy_bulk(u32 shared, const void* global, u32 bytes, u32 barrier, u64 policy) {
  asm volatile(
      "cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes.L2::cache_hint [%0], [%1], %2, [%3], %4;" ::
          "r"(shared),
      "l"(global), "r"(bytes), "r"(barrier), "l"(policy)
      : "memory");
}

// And from there; bulk_commit closes a group of these.
__device__ __forceinline__ void store_bulk(void* global, u32 shared, u32 bytes, u64 policy) {
  asm volatile("cp.async.bulk.global.shared::cta.bulk_group.L2::cache_hint [%0], [%1], %2, %3;" ::"l"(global),
               "r"(shared), "r"(bytes), "l"(policy)
               : "memory");
}

// Copies a box from shared memory to a rank-4 tensor; bulk_commit closes a group of these.
__device__ __forceinline__ void store_tensor(const TensorMap& map, u32 shared, i32 c0, i32 c1, i32 c2, i32 c3) {
  asm volatile("cp.async.bulk.tensor.4d.global.shared::cta.tile.bulk_group [%0, {%2,%3,%4,%5}], [%1];" ::"l"(&map),
               "r"(shared), "r"(c0), "r"(c1), "r"(c2), "r"(c3)
               : "memory");
}

__device__ __forceinline__ void bulk_commit() { asm volatile("cp.async.bulk.commit_group;" ::: "memory"); }

// Waits until this thread's stores have left shared memory.
__device__ __forceinline__ void bulk_wait_read() { asm volatile("cp.async.bulk.wait_group.read 0;" ::: "memory"); }

// Waits until this thread's stores are done.
__device__ __forceinline__ void bulk_wait() { asm volatile("cp.async.bulk.wait_group 0;" ::: "memory"); }

// Stores four 8x8 matrices of 16-bit elements; addresses as ldmatrix.
__device__ __forceinline__ void stmatrix(u32 address, const u32 (&a)[4]) {
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1,%2,%3,%4};" ::"r"(address), "r"(a[0]), "r"(a[1]),
               "r"(a[2]), "r"(a[3])
               : "memory");
}

}  // namespace flashinfer
