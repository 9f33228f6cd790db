// The matrices of one sample: where each lives, and how blocks of it are loaded and stored.
//
// A matrix is one plane of halves ("fast", an 11-bit significand), or a high and a low one that holds what the first
// rounded away ("high", 22 bits). Its elements are lifted.
#pragma once

#include "device/symmetric.cuh"
#include "planes.h"

namespace gcp_kernels {

// Nothing here is kept in registers: the layout is a kernel argument, and what is computed from it is cheap.
struct Workspace {
  const Layout& layout;
  char* slabs;  // of all CTAs; unused where every matrix is resident

  __device__ Workspace(const Layout& layout_, char* slabs_) : layout(layout_), slabs(slabs_) {}

  __device__ SharedAddress start() const { return shared_memory(); }
  __device__ SharedAddress ring() const { return start() + layout.ring_offset(); }
  __device__ SharedAddress channels(int array) const { return start() + layout.channel_offset(array); }
  __device__ SharedAddress partial_sums() const { return start() + layout.partial_offset(); }
  __device__ SharedAddress round() const { return start() + layout.round_offset(); }
  __device__ SharedAddress tiles() const { return start() + layout.tile_offset(); }

  // A number that all threads have, kept out of the registers; it can be read after the next barrier.
  __device__ void keep_scalar(float value) const {
    if (threadIdx.x == 0) store_shared(start() + layout.scalar_offset(), as_word(value));
  }
  __device__ float kept_scalar() const { return as_float(load_shared(start() + layout.scalar_offset())); }

  template <Form kForm>
  __device__ bool is_streamed(Plane plane) const {
    return kStreams<kForm> && static_cast<int>(plane) >= layout.resident * layout.planes;
  }
  __device__ SharedAddress in_shared(Plane plane) const {
    return start() + static_cast<int>(plane) * layout.plane_bytes();
  }
  __device__ char* in_slab(Plane plane) const {
    const std::uint32_t cta = recomputed(static_cast<int>(blockIdx.x));
    const std::uint32_t streamed = (layout.matrices - layout.resident) * layout.planes;
    // 32 bits are enough: the host entry has checked that.
    return slabs +
           (cta * streamed + static_cast<std::uint32_t>(static_cast<int>(plane) - layout.resident * layout.planes)) *
               static_cast<std::uint32_t>(layout.plane_bytes());
  }
  // The blocks of the result that this warp owns.
  template <Form kForm>
  __device__ WarpTile<kForm> tile() const {
    return WarpTile<kForm>::of_warp(tiles(), layout.blocks);
  }
};

// For every block of this warp's tile: visit(sum, block row, block column).
template <Form kForm, typename Visit>
__device__ inline void for_each_block(const Workspace& workspace, TileSums<kForm>& sums, Visit visit) {
#pragma unroll
  for (int s = 0; s < kMostSums<kForm>; ++s) {
    const WarpTile<kForm> tile = workspace.tile<kForm>();
    if (tile.owns(s)) visit(sums[s], tile.row_of(s), tile.column_of(s));
  }
}

// The same where the sums are of no interest: visit(block row, block column).
template <Form kForm, typename Visit>
__device__ inline void for_each_block(const Workspace& workspace, Visit visit) {
  const WarpTile<kForm> tile = workspace.tile<kForm>();
#pragma unroll 1
  for (int s = 0; s < kMostSums<kForm>; ++s) {
    if (tile.owns(s)) visit(tile.row_of(s), tile.column_of(s));
  }
}

// A lane's four words of a block of a plane, a tile apart.
template <Form kForm>
struct BlockShare {
  SharedAddress shared;
  char* slab;  // null where the plane is resident

  __device__ BlockShare(const Workspace& workspace, Plane plane, int block) {
    const Plane number = kStreams<kForm> ? static_cast<Plane>(recomputed(static_cast<int>(plane))) : plane;
    const int offset = block * kBlockBytes + lane_of_thread() * 4;
    const bool in_slab = workspace.is_streamed<kForm>(number);
    shared = in_slab ? 0 : workspace.in_shared(number) + offset;
    slab = in_slab ? workspace.in_slab(number) + offset : nullptr;
  }

  __device__ std::uint32_t load(int w) const {
    if (kStreams<kForm> && slab != nullptr) return load_slab(slab + w * kTileBytes);
    return load_shared(shared + w * kTileBytes);
  }
  __device__ void store(int w, std::uint32_t word) const {
    if (kStreams<kForm> && slab != nullptr) {
      store_slab(slab + w * kTileBytes, word);
    } else {
      store_shared(shared + w * kTileBytes, word);
    }
  }
};

// A lane's share of a block of what kPlanes planes from `high` on hold.
template <Form kForm, int kPlanes>
__device__ inline LiftedBlock<1> load_planes(const Workspace& workspace, Plane high, int block) {
  LiftedBlock<1> elements;
  const BlockShare<kForm> share(workspace, high, block);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const std::uint32_t word = share.load(w);
    elements.value[2 * w] = first_half(word);
    elements.value[2 * w + 1] = second_half(word);
  }
  if constexpr (kPlanes == 2) {
    const BlockShare<kForm> low(workspace, next(high), block);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const std::uint32_t word = low.load(w);
      elements.value[2 * w] += first_half(word);
      elements.value[2 * w + 1] += second_half(word);
    }
  }
  return elements;
}

// Rounds elements to halves in the plane `high`, and leaves what that takes away in the plane `low`.
template <Form kForm>
__device__ inline void store_split(const Workspace& workspace, Plane high, Plane low, int block,
                                   const LiftedBlock<1>& elements) {
  const BlockShare<kForm> rounded(workspace, high, block);
  std::uint32_t words[4];
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    words[w] = pack_halves(elements.value[2 * w], elements.value[2 * w + 1]);
    rounded.store(w, words[w]);
  }
  const BlockShare<kForm> rest(workspace, low, block);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    rest.store(w, pack_halves(elements.value[2 * w] - first_half(words[w]),
                              elements.value[2 * w + 1] - second_half(words[w])));
  }
}

template <Form kForm>
__device__ inline void store_split(const Workspace& workspace, Split split, int block, const LiftedBlock<1>& elements) {
  store_split<kForm>(workspace, split.high, next(split.high), block, elements);
}

template <Form kForm>
__device__ inline LiftedBlock<1> load_split(const Workspace& workspace, Split split, int block) {
  return load_planes<kForm, 2>(workspace, split.high, block);
}

// The same for a matrix of the iteration.
template <Form kForm, int kPlanes>
__device__ inline LiftedBlock<1> load_elements(const Workspace& workspace, Matrix matrix, int block) {
  return load_planes<kForm, kPlanes>(workspace, plane_of(matrix, kPlanes), block);
}

template <Form kForm, int kPlanes>
__device__ inline void store_elements(const Workspace& workspace, Matrix matrix, int block,
                                      const LiftedBlock<1>& elements) {
  const Plane high = plane_of(matrix, kPlanes);
  if constexpr (kPlanes == 2) {
    store_split<kForm>(workspace, Split{high}, block, elements);
  } else {
    const BlockShare<kForm> share(workspace, high, block);
#pragma unroll
    for (int w = 0; w < 4; ++w) share.store(w, pack_halves(elements.value[2 * w], elements.value[2 * w + 1]));
  }
}

// A lane's share of a block in float32.
template <Form kForm, int kTimes>
__device__ inline LiftedBlock<kTimes> load_floats(const Workspace& workspace, Floats<kTimes> floats, int block) {
  LiftedBlock<kTimes> elements;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const BlockShare<kForm> share(workspace, next(floats.first, half), block);
#pragma unroll
    for (int w = 0; w < 4; ++w) elements.value[4 * half + w] = as_float(share.load(w));
  }
  return elements;
}

template <Form kForm, int kTimes>
__device__ inline void store_floats(const Workspace& workspace, Floats<kTimes> floats, int block,
                                    const LiftedBlock<kTimes>& elements) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const BlockShare<kForm> share(workspace, next(floats.first, half), block);
#pragma unroll
    for (int w = 0; w < 4; ++w) share.store(w, as_word(elements.value[4 * half + w]));
  }
}

}  // namespace gcp_kernels
