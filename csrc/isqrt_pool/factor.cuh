// The factor q(K) of the side of the positions, Z_N, and how it is kept: as Z - c I, c being what Z grows by in a null
// space, 1.5 in each iteration. So the products it is in sum numbers of one size: the identity in them would be most of
// the sum, and what tensor cores cut off is as large as the sum.
#pragma once

#include "device/planes.cuh"
#include "isqrt_pool/positions/matrices.h"

namespace gcp_kernels {

// The power of two in which Z is kept, so that c stays in the range of halves. It is 1 up to 15 iterations, and no
// smaller than for 32, so that the Z of a regular matrix keeps its digits.
__device__ inline float unit_of(int n_iter) {
  return exp2f(-fminf(fmaxf(ceilf(0.584963f * static_cast<float>(n_iter) - 9.0f), 0.0f), 10.0f));
}

// c of Z_k, times the unit.
__device__ inline float identity_of(int n_iter, int k) {
  float c = unit_of(n_iter);
#pragma unroll 1
  for (int step = 0; step < k; ++step) c *= 1.5f;
  return c;
}

// Z_1 - c I = -W / 2 times the unit; or its tangent. From then on Z_(k+1) - c I is 3/2 (Z_k - c I) - 1/2 (Z_k - c I) W
// - c W / 2, with the c of each.
__device__ inline LiftedBlock<1> first_factor(const LiftedBlock<1>& w, int n_iter) {
  return times(plain(-0.5f * unit_of(n_iter)), w);
}

// Leaves a block of the factor, or of its tangent L, where it is read.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void store_factor(const Workspace& workspace, bool tangent, int block, const LiftedBlock<1>& result) {
  if constexpr (kTangents) {
    store_split<kForm>(workspace, tangent ? factor_derivative(kPlanes) : factor_split(), block, result);
  } else {
    store_elements<kForm, kPlanes>(workspace, Matrices<false>::kW, block, result);
  }
}

}  // namespace gcp_kernels
