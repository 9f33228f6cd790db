// The direction in which a backward pass differentiates: G + G^T of the gradient G, over its largest magnitude.
#pragma once

#include "device/planes.cuh"
#include "device/pooled.cuh"
#include "device/reduce.cuh"

namespace gcp_kernels {

// Leaves G + G^T in float32 in the plane `floats` and the next, and gives its largest magnitude in the whole sample.
template <Form kForm>
__device__ inline float load_gradient(const Workspace& workspace, const SymmetricGradient& grad, std::int64_t number,
                                      int floats) {
  float largest = 0.0f;
  for_each_block<kForm>(workspace, [&](int i, int j) {
    const BlockSum twice = load_twice_symmetric(grad, number, i, j);
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = larger(largest, fabsf(twice.value[e]));
    store_floats<kForm>(workspace, floats, packed_block(i, j), twice);
  });
  return block_max(workspace, largest);
}

// (G + G^T) / largest, times `scale`; NaN stays NaN where all else is zero.
__device__ inline BlockSum direction_of(const BlockSum& twice, float largest, float scale) {
  BlockSum direction;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    direction.value[e] = (largest == 0.0f ? twice.value[e] : twice.value[e] / largest) * scale;
  }
  return direction;
}

}  // namespace gcp_kernels
