// What a CTA keeps in global memory behind the streamed planes of all of them.
#pragma once

#include "isqrt_pool/positions/rows.cuh"

namespace gcp_kernels {

// A symmetric matrix in float32 in the slab, of which every lane reads what it wrote itself.
struct SlabFloats {
  char* start;

  __device__ char* own(int block) const { return start + block * 2 * kBlockBytes + lane_of_thread() * 4; }
  template <int kTimes>
  __device__ void store(int block, const LiftedBlock<kTimes>& elements) const {
#pragma unroll
    for (int e = 0; e < 8; ++e) store_slab(own(block) + e * kTileBytes, as_word(elements.value[e]));
  }
  template <int kTimes>
  __device__ LiftedBlock<kTimes> load_lifted(int block) const {
    LiftedBlock<kTimes> elements;
#pragma unroll
    for (int e = 0; e < 8; ++e) elements.value[e] = as_float(load_slab(own(block) + e * kTileBytes));
    return elements;
  }
  __device__ LiftedBlock<2> load(int block) const { return load_lifted<2>(block); }
};

// Worked out wherever it is asked for.
struct PositionsSlab {
  const PositionsLayout& layout;
  char* slabs;

  __device__ char* start() const {
    return layout.extra_of_cta(slabs, recomputed(static_cast<int>(gridDim.x)),
                               recomputed(static_cast<int>(blockIdx.x)));
  }
  __device__ SlabFloats gram() const { return {start()}; }
  __device__ SlabFloats direction() const { return {start() + layout.gram_bytes()}; }
  __device__ SlabRows rows() const {
    return {start() + layout.rows_offset(), layout.blocks(), static_cast<int>(layout.rows_plane_bytes())};
  }
  __device__ SlabRows features() const {
    return {start() + layout.features_offset(), layout.blocks(), static_cast<int>(layout.rows_plane_bytes())};
  }
};

}  // namespace gcp_kernels
