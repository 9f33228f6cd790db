// Sums and largest numbers over all threads of a block.
#pragma once

#include "device/planes.cuh"

namespace gcp_kernels {

// The sum over the block of one number for each thread, the same to the last bit in all of them.
__device__ inline float block_sum(const Workspace& workspace, float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  block_barrier();  // the partial sums of the last time are read
  if (lane_of_thread() == 0) store_shared(workspace.partial_sums() + warp_of_thread() * 4, as_word(value));
  block_barrier();
  float total = 0.0f;
  const int warps = blockDim.x / kWarpSize;
  for (int warp = 0; warp < warps; ++warp) total += as_float(load_shared(workspace.partial_sums() + warp * 4));
  return total;
}

// The larger number; NaN if one is.
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

// The largest of one number for each thread; NaN if one is.
__device__ inline float block_max(const Workspace& workspace, float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = larger(value, shuffle_xor(value, mask));
  block_barrier();  // the partial sums of the last time are read
  if (lane_of_thread() == 0) store_shared(workspace.partial_sums() + warp_of_thread() * 4, as_word(value));
  block_barrier();
  float largest = value;
  const int warps = blockDim.x / kWarpSize;
  for (int warp = 0; warp < warps; ++warp) {
    largest = larger(largest, as_float(load_shared(workspace.partial_sums() + warp * 4)));
  }
  return largest;
}

}  // namespace gcp_kernels
