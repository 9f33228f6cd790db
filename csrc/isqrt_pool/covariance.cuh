// A, the covariance of a sample over its trace, with which both passes begin.
#pragma once

#include "device/feature_products.cuh"
#include "device/statistics.cuh"
#include "isqrt_pool/iteration.cuh"

namespace gcp_kernels {

// W = A from its totals.
template <Form kForm, int kPlanes>
__device__ inline void store_covariance(const Workspace& workspace, Floats<2> totals) {
  block_barrier();  // the staged features, whose memory W takes, have been read
  for_each_block<kForm>(workspace, [&](int i, int j) {
    const LiftedBlock<2> total = load_floats<kForm>(workspace, totals, packed_block(i, j));
    store_elements<kForm, kPlanes>(workspace, Matrices<false>::kW, packed_block(i, j), times(unlift(), total));
  });
}

}  // namespace gcp_kernels
