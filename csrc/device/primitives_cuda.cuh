// The primitives of primitives.cuh, which includes this, on a GPU.
#pragma once

#include <cuda_fp16.h>

#include "device/primitives.cuh"

namespace gcp_kernels {

// The block's dynamic shared memory; it starts aligned to what a ring holds of a row.
__device__ inline SharedAddress shared_memory() {
  extern __shared__ __align__(64) unsigned char memory[];
  return static_cast<SharedAddress>(__cvta_generic_to_shared(memory));
}

__device__ inline std::uint32_t load_shared(SharedAddress address) {
  std::uint32_t word;
  asm volatile("ld.shared.u32 %0, [%1];" : "=r"(word) : "r"(address) : "memory");
  return word;
}

__device__ inline void store_shared(SharedAddress address, std::uint32_t word) {
  asm volatile("st.shared.u32 [%0], %1;" ::"r"(address), "r"(word) : "memory");
}

__device__ inline void store_shared_half(SharedAddress address, std::uint16_t half) {
  asm volatile("st.shared.u16 [%0], %1;" ::"r"(address), "h"(half) : "memory");
}

__device__ inline TileRow load_shared_row(SharedAddress address) {
  TileRow row;
  asm volatile("ld.shared.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(row.word[0]), "=r"(row.word[1]), "=r"(row.word[2]), "=r"(row.word[3])
               : "r"(address)
               : "memory");
  return row;
}

__device__ inline void store_shared(SharedAddress address, const TileRow& row) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};" ::"r"(address), "r"(row.word[0]), "r"(row.word[1]),
               "r"(row.word[2]), "r"(row.word[3])
               : "memory");
}

__device__ inline std::uint32_t load_slab(const char* address) {
  return *reinterpret_cast<const std::uint32_t*>(address);
}

__device__ inline void store_slab(char* address, std::uint32_t word) {
  *reinterpret_cast<std::uint32_t*>(address) = word;
}

__device__ inline void store_slab(char* address, const TileRow& row) {
  *reinterpret_cast<uint4*>(address) = make_uint4(row.word[0], row.word[1], row.word[2], row.word[3]);
}

// `row` is the address of tile row `lane`: of the first tile for lanes 0-7, and so on.
__device__ inline Fragment load_matrix(SharedAddress row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(row)
               : "memory");
  return f;
}

// The same with each tile transposed.
__device__ inline Fragment load_matrix_transposed(SharedAddress row) {
  Fragment f;
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(f.word[0]), "=r"(f.word[1]), "=r"(f.word[2]), "=r"(f.word[3])
               : "r"(row)
               : "memory");
  return f;
}

// sum += left right^T: the right operand is given by the rows of its transpose, and with its two tiles off the diagonal
// exchanged, so that each instruction finds its two words of it in neighbouring registers.
__device__ inline void multiply_add(BlockSum& sum, const Fragment& left, const Fragment& right) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    float* s = sum.value + 4 * half;
    asm("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
        "{%0, %1, %2, %3};"
        : "+f"(s[0]), "+f"(s[1]), "+f"(s[2]), "+f"(s[3])
        : "r"(left.word[0]), "r"(left.word[1]), "r"(left.word[2]), "r"(left.word[3]), "r"(right.word[2 * half]),
          "r"(right.word[2 * half + 1]));
  }
}

__device__ inline void copy_async(SharedAddress to, const void* from) {
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16;" ::"r"(to), "l"(__cvta_generic_to_global(from)) : "memory");
}

// Ends a group of this thread's copies.
__device__ inline void commit_copies() { asm volatile("cp.async.commit_group;" ::: "memory"); }

// Until all groups of this thread but the last kPending have arrived.
template <int kPending>
__device__ inline void wait_for_copies() {
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
}

__device__ inline void block_barrier() { __syncthreads(); }

// Until all lanes of the warp are here, and what they stored can be read by the others.
__device__ inline void warp_barrier() { __syncwarp(); }

// A number that all lanes of a warp have, so that the compiler knows it.
__device__ inline int of_all_lanes(int value) { return __shfl_sync(0xffffffffu, value, 0); }

__device__ inline float shuffle_xor(float value, int mask) { return __shfl_xor_sync(0xffffffffu, value, mask); }

// Read each time it is asked for: that is cheap, registers are not.
__device__ inline int lane_of_thread() {
  int lane;
  asm volatile("mov.u32 %0, %%laneid;" : "=r"(lane));
  return lane;
}

// Stores a block as load_matrix() loads it, to the address that it was given. The tiles of the block follow each other.
__device__ inline void store_matrix(SharedAddress row, const Fragment& block) {
#if __CUDA_ARCH__ >= 900
  asm volatile("stmatrix.sync.aligned.m8n8.x4.shared.b16 [%0], {%1, %2, %3, %4};" ::"r"(row), "r"(block.word[0]),
               "r"(block.word[1]), "r"(block.word[2]), "r"(block.word[3])
               : "memory");
#else
  const SharedAddress own = row - 12 * lane_of_thread();
#pragma unroll
  for (int w = 0; w < 4; ++w) store_shared(own + w * kTileBytes, block.word[w]);
#endif
}

__device__ inline int warp_of_thread() {
  unsigned thread;
  asm volatile("mov.u32 %0, %%tid.x;" : "=r"(thread));
  return static_cast<int>(thread / kWarpSize);
}

// The same number, but the compiler takes it for a new one: what is computed from it is not kept in registers over the
// loop around it.
__device__ inline int recomputed(int value) {
  asm volatile("" : "+r"(value));
  return value;
}

// Two halves in a word, the first in its low bits, rounded to nearest.
__device__ inline std::uint32_t pack_halves(float first, float second) {
  const __half2 pair = __floats2half2_rn(first, second);
  return *reinterpret_cast<const std::uint32_t*>(&pair);
}

__device__ inline float first_half(std::uint32_t word) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(word & 0xffffu)));
}

__device__ inline float second_half(std::uint32_t word) {
  return __half2float(__ushort_as_half(static_cast<unsigned short>(word >> 16)));
}

__device__ inline float as_float(std::uint32_t word) { return __uint_as_float(word); }
__device__ inline std::uint32_t as_word(float value) { return __float_as_uint(value); }

}  // namespace gcp_kernels
