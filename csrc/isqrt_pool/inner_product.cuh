// <u, v> of symmetric matrices, block by block.
#pragma once

#include "device/lifted.cuh"

namespace gcp_kernels {

// <u, v> over a whole symmetric matrix, from a lane's share of one of the blocks that are stored.
template <int kU, int kV>
__device__ inline Lifted<kU + kV> inner_product(const LiftedBlock<kU>& u, const LiftedBlock<kV>& v, int i, int j) {
  float total = 0.0f;
#pragma unroll
  for (int e = 0; e < 8; ++e) total += u.value[e] * v.value[e];
  return {i == j ? total : 2.0f * total};
}

}  // namespace gcp_kernels
