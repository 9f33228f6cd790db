// What is (C, M) in the slab of this CTA.
#pragma once

#include "device/lifted.cuh"
#include "device/primitives.cuh"

namespace gcp_kernels {

// Block rows of channels in the slab, in one or two planes of halves: z, and z q forward or H backward. Block (i, k) is
// number i * blocks + k of its plane.
struct SlabRows {
  char* start;
  int blocks;
  int plane_bytes;

  __device__ char* block(int i, int k, bool low) const {
    return start + i * blocks * kBlockBytes + (low ? plane_bytes : 0) + k * kBlockBytes;
  }
  // A lane's words of a block, as a left operand.
  __device__ Fragment load(int i, int k, bool low) const {
    const char* own = block(i, k, low) + lane_of_thread() * 4;
    Fragment fragment;
#pragma unroll
    for (int w = 0; w < 4; ++w) fragment.word[w] = load_slab(own + w * kTileBytes);
    return fragment;
  }
  // A lane's share of a block of two planes.
  __device__ LiftedBlock<1> elements(int i, int k) const {
    const Fragment high = load(i, k, false), low = load(i, k, true);
    LiftedBlock<1> elements;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      elements.value[2 * w] = first_half(high.word[w]) + first_half(low.word[w]);
      elements.value[2 * w + 1] = second_half(high.word[w]) + second_half(low.word[w]);
    }
    return elements;
  }
  __device__ void store(int i, int k, bool low, const Fragment& fragment) const {
    char* const own = block(i, k, low) + lane_of_thread() * 4;
#pragma unroll
    for (int w = 0; w < 4; ++w) store_slab(own + w * kTileBytes, fragment.word[w]);
  }
};

}  // namespace gcp_kernels
