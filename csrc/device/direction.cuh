// The direction in which a backward pass differentiates: G + G^T of the gradient G, over its largest magnitude.
#pragma once

#include "device/planes.cuh"
#include "device/pooled.cuh"
#include "device/reduce.cuh"

namespace gcp_kernels {

// Leaves G + G^T in `floats`, and gives its largest magnitude in the whole sample.
template <Form kForm>
__device__ inline float load_gradient(const Workspace& workspace, const SymmetricGradient& grad, std::int64_t number,
                                      Floats<0> floats) {
  float largest = 0.0f;
  for_each_block<kForm>(workspace, [&](int i, int j) {
    const LiftedBlock<0> twice = load_twice_symmetric(grad, number, i, j);
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = larger(largest, fabsf(twice.value[e]));
    store_floats<kForm>(workspace, floats, packed_block(i, j), twice);
  });
  return block_max(workspace, largest);
}

// (G + G^T) / largest, times `scale`; NaN stays NaN where all else is zero. In two factors, since the reciprocal of a
// subnormal number would be infinite.
template <int kTimes>
__device__ inline LiftedBlock<kTimes> direction_of(const LiftedBlock<0>& twice, float largest, Lifted<kTimes> scale) {
  const float up = largest < 0x1p-64f ? 0x1p64f : 1.0f;
  const float factor = largest == 0.0f ? scale.value : scale.value / (largest * up);
  LiftedBlock<kTimes> direction;
#pragma unroll
  for (int e = 0; e < 8; ++e) direction.value[e] = twice.value[e] * up * factor;
  return direction;
}

}  // namespace gcp_kernels
