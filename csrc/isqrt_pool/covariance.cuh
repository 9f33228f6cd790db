// A, the covariance of a sample over its trace, with which both passes begin.
#pragma once

#include "device/feature_products.cuh"
#include "device/statistics.cuh"
#include "isqrt_pool/iteration.cuh"

namespace gcp_kernels {

// A lane's share of a block of A in float32, in the slab of this CTA, behind those of all matrices; it is written and
// read by the same thread.
__device__ inline char* kept_share(const Workspace& workspace, int i, int j) {
  const Layout& layout = workspace.layout;
  // 32 bits are enough: the host entry has checked that.
  const std::uint32_t cta = recomputed(static_cast<int>(blockIdx.x));
  const std::uint32_t kept = layout.kept_planes * layout.plane_bytes();
  const std::uint32_t streamed =
      recomputed(static_cast<int>(gridDim.x)) * static_cast<std::uint32_t>(layout.streamed_bytes());
  return workspace.slabs + (streamed + cta * kept + 2 * packed_block(i, j) * kBlockBytes + lane_of_thread() * 4);
}

__device__ inline void keep_covariance(const Workspace& workspace, const LiftedBlock<2>& a, int i, int j) {
  char* share = kept_share(workspace, i, j);
#pragma unroll
  for (int e = 0; e < 8; ++e) store_slab(share + e * kTileBytes, as_word(a.value[e]));
}

__device__ inline LiftedBlock<2> kept_covariance(const Workspace& workspace, int i, int j) {
  const char* share = kept_share(workspace, i, j);
  LiftedBlock<2> a;
#pragma unroll
  for (int e = 0; e < 8; ++e) a.value[e] = as_float(load_slab(share + e * kTileBytes));
  return a;
}

// W = A from its sums; where it is kept, in float32 as well.
template <Form kForm, int kPlanes, bool kKept>
__device__ inline void store_covariance(const Workspace& workspace, TileSums<kForm>& sums) {
  block_barrier();  // the staged features, whose memory W takes, have been read
  for_each_block_in_turn<kForm>(workspace, sums, [&](const LiftedBlock<2>& sum, int i, int j) {
    if (kKept) keep_covariance(workspace, sum, i, j);
    store_elements<kForm, kPlanes>(workspace, Matrices<false>::kW, packed_block(i, j), times(unlift(), sum));
  });
}

}  // namespace gcp_kernels
