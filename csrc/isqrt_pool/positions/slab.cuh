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

// What is where is worked out whenever it is asked for, but for the place of a CTA's own.
struct PositionsSlab {
  const PositionsLayout& layout;
  const Workspace& workspace;

  static constexpr std::uint32_t kUnit = sizeof(TileRow);  // of its place, so that 32 bits are enough

  // That is found once, in 64 bits, and kept in shared memory; it can be read after the next barrier.
  __device__ PositionsSlab(const PositionsLayout& layout_, const Workspace& workspace_)
      : layout(layout_), workspace(workspace_) {
    if (threadIdx.x > 0) return;
    const std::int64_t place = layout.extra_of_cta(gridDim.x, blockIdx.x);
    store_shared(at(), static_cast<std::uint32_t>(place / kUnit));
  }

  __device__ SharedAddress at() const { return workspace.channels(0) + static_cast<int>(Kept::kSlab) * 4; }
  __device__ char* start() const { return workspace.slabs + std::uint64_t{load_shared(at())} * kUnit; }
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
