// The last step of the backward pass on the side of the positions: the gradient of the features from
// D = span z L + H q, a block row of channels and a group of block columns for each warp.
//
// Both products may cancel (rank-one covariances), so all their operands are split in every precision.
#pragma once

#include "device/feature_gradient.cuh"
#include "isqrt_pool/factor.cuh"
#include "isqrt_pool/positions/matrices.h"
#include "isqrt_pool/positions/rows.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

template <Form kForm, int kPlanes>
__device__ inline void store_gradient_rows(const Workspace& workspace, const PositionsLayout& layout,
                                           const Sample& sample, const PositionsSlab& slab, int n_iter,
                                           const FeatureGradient& grad_x) {
  const int warps = blockDim.x / kWarpSize;
  const int units = layout.channel_blocks * layout.groups();
  block_barrier();  // the factor and its derivative are written
  for (int first = 0; first < units; first += warps) {
    const bool idle = first + warp_of_thread() >= units;
    if (idle && !kStreams<kForm>) continue;
    RowGroup own(idle ? units - 1 : first + warp_of_thread(), layout);
    if (idle) own.end_column = own.first_column;  // no product of its own, but every barrier
    LiftedBlock<2> sums[kColumns<kForm>] = {};
    // First z L and then H q, in a loop, which is half of the code.
#pragma unroll 1
    for (int term = 0; term < 2; ++term) {
      const SlabRows left = term == 0 ? slab.features() : slab.rows();
      multiply_rows<kForm, kForm, 2, kPlanes == 2>(
          workspace, term == 0 ? factor_derivative(kPlanes).high : factor_split().high, own,
          [&](int m) { return SplitFragment{left.load(own.row, m, false), left.load(own.row, m, true)}; }, sums);
      if (term > 0) break;
#pragma unroll
      for (int c = 0; c < kColumns<kForm>; ++c) sums[c] = times(plain(kept(workspace, Kept::kSpan)), sums[c]);
    }
    if (idle) continue;
    const Lifted<-2> factor = kept(workspace, Kept::kLargest) /
                              (sqrtf(static_cast<float>(sample.features.positions)) * unit_of(n_iter)) * unlift() *
                              unlift();
    const Lifted<1> identity = identity_of(n_iter, n_iter) * lift();
    const SlabRows h = slab.rows();
    for_each_column<kForm>(own, sums, [&](const LiftedBlock<2>& sum, int k) {
      const LiftedBlock<2> d = combine(1.0f, sum, 1.0f, times(identity, h.elements(own.row, k)));
      store_gradient(grad_x, sample, own.row, k, times(factor, d));
    });
  }
}

}  // namespace gcp_kernels
