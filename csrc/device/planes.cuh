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
  // Addresses that are asked for everywhere, and are not kept in between.
  __device__ SharedAddress round() const { return start() + recomputed(layout.round_offset()); }
  __device__ SharedAddress tiles() const { return start() + recomputed(layout.tile_offset()); }
  __device__ SharedAddress scalar() const { return start() + recomputed(layout.scalar_offset()); }

  // A number that all threads have, kept out of the registers; it can be read after the next barrier.
  __device__ void keep_scalar(float value) const {
    if (threadIdx.x == 0) store_shared(scalar(), as_word(value));
  }
  __device__ float kept_scalar() const { return as_float(load_shared(scalar())); }

  template <Form kForm>
  __device__ bool is_streamed(Plane plane) const {
    return kStreams<kForm> && static_cast<int>(plane) >= layout.resident * layout.planes;
  }
  __device__ SharedAddress in_shared(Plane plane) const {
    return start() + static_cast<int>(plane) * layout.plane_bytes();
  }
  // From the start of the slabs; 32 bits are enough, the host entry has checked that.
  __device__ std::uint32_t slab_offset(Plane plane) const {
    const std::uint32_t cta = recomputed(static_cast<int>(blockIdx.x));
    const std::uint32_t streamed = (layout.matrices - layout.resident) * layout.planes;
    return (cta * streamed + static_cast<std::uint32_t>(static_cast<int>(plane) - layout.resident * layout.planes)) *
           static_cast<std::uint32_t>(layout.plane_bytes());
  }
  __device__ char* in_slab(Plane plane) const { return slabs + slab_offset(plane); }
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

// The same: all sums pass through the first, so that there is one visit in the code and not one for each. For what is
// done once for a sample.
template <Form kForm, typename Visit>
__device__ inline void for_each_block_in_turn(const Workspace& workspace, TileSums<kForm>& sums, Visit visit) {
#pragma unroll 1
  for (int s = 0; s < kMostSums<kForm>; ++s) {
    const WarpTile<kForm> tile = workspace.tile<kForm>();
    if (tile.owns(s)) visit(sums[0], tile.row_of(s), tile.column_of(s));
    turn(sums);
  }
}

// The same, but visit(sum, block), where that is the packed number of the block: the next one is one further, but where
// a column of the tile begins.
template <Form kForm, typename Visit>
__device__ inline void for_each_packed_block(const Workspace& workspace, TileSums<kForm>& sums, Visit visit) {
  const WarpTile<kForm> tile = workspace.tile<kForm>();
  const bool diagonal = tile.diagonal();
  const int between = diagonal ? tile.row() : tile.column() + 1 - kTileRows<kForm>;
  int first = packed_block(tile.row(), tile.column());
#pragma unroll
  for (int s = 0; s < kMostSums<kForm>; ++s) {
    if (s > 0 && (diagonal ? tile.diagonal_column(s) > tile.diagonal_column(s - 1) : s == kTileRows<kForm>)) {
      first += between;
    }
    if (tile.owns(s)) visit(sums[s], first + s);
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

// The same for every block row, dealt out to the warps back and forth, since the first ones have the most blocks:
// visit(block row, a ring of the warp), where rings are in the plane `free` or, where matrices are streamed, in the
// place of streamed columns.
template <Form kForm, typename Visit>
__device__ inline void for_each_block_row(const Workspace& workspace, Plane free, Visit visit) {
  const int warps = blockDim.x / kWarpSize, warp = warp_of_thread();
  const SharedAddress rings = kStreams<kForm> ? workspace.ring() : workspace.in_shared(free);
#pragma unroll 1
  for (int round = 0; round * warps < workspace.layout.blocks; ++round) {
    const int i = round * warps + (round % 2 == 0 ? warp : warps - 1 - warp);
    if (i < workspace.layout.blocks) visit(i, rings + warp * kRingBytes);
  }
}

// A plane, and a lane's share of its blocks.
template <Form kForm>
struct PlaneShare {
  char* slabs;
  // Of block 0: the address in shared memory of the row that the lane loads, or 1 more than where the lane's words are
  // from the start of the slabs. One number: flags of several planes would fill the predicates.
  std::uint32_t first;

  __device__ PlaneShare(const Workspace& workspace, Plane plane) : slabs(workspace.slabs) {
    first = workspace.is_streamed<kForm>(plane) ? workspace.slab_offset(plane) + lane_of_thread() * 4 + 1
                                                : workspace.in_shared(plane) + LaneOffset().in_order;
  }

  __device__ bool in_slab() const { return kStreams<kForm> && (recomputed(static_cast<int>(first)) & 1) != 0; }

  __device__ Fragment load(int block) const {
    if (!in_slab()) return load_matrix(first + block * kBlockBytes);
    const char* words = slabs + (first - 1 + block * kBlockBytes);
    Fragment share;
#pragma unroll
    for (int w = 0; w < 4; ++w) share.word[w] = load_slab(words + w * kTileBytes);
    return share;
  }

  __device__ void store(int block, const Fragment& share) const {
    if (!in_slab()) return store_matrix(first + block * kBlockBytes, share);
    char* words = slabs + (first - 1 + block * kBlockBytes);
#pragma unroll
    for (int w = 0; w < 4; ++w) store_slab(words + w * kTileBytes, share.word[w]);
  }
};

// Between a lane's share of a block in halves and the same in float32.
__device__ inline LiftedBlock<1> unpacked(const Fragment& halves) {
  LiftedBlock<1> elements;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    elements.value[2 * w] = first_half(halves.word[w]);
    elements.value[2 * w + 1] = second_half(halves.word[w]);
  }
  return elements;
}

__device__ inline Fragment packed(const LiftedBlock<1>& elements) {
  Fragment halves;
#pragma unroll
  for (int w = 0; w < 4; ++w) halves.word[w] = pack_halves(elements.value[2 * w], elements.value[2 * w + 1]);
  return halves;
}

// A lane's share of a block of what two planes hold.
template <Form kForm>
__device__ inline LiftedBlock<1> load_split(const PlaneShare<kForm>& high, const PlaneShare<kForm>& low, int block) {
  const LiftedBlock<1> rounded = unpacked(high.load(block)), rest = unpacked(low.load(block));
  return combine(1.0f, rounded, 1.0f, rest);
}

// Rounds elements to halves in the plane `high`, and leaves what that takes away in the plane `low`.
template <Form kForm>
__device__ inline void store_split(const PlaneShare<kForm>& high, const PlaneShare<kForm>& low, int block,
                                   const LiftedBlock<1>& elements) {
  const Fragment rounded = packed(elements);
  high.store(block, rounded);
  low.store(block, packed(combine(1.0f, elements, -1.0f, unpacked(rounded))));
}

// A lane's share of a block of what kPlanes planes from `high` on hold.
template <Form kForm, int kPlanes>
__device__ inline LiftedBlock<1> load_planes(const Workspace& workspace, Plane high, int block) {
  const PlaneShare<kForm> share(workspace, high);
  if constexpr (kPlanes == 2) return load_split(share, PlaneShare<kForm>(workspace, next(high)), block);
  return unpacked(share.load(block));
}

template <Form kForm>
__device__ inline void store_split(const Workspace& workspace, Split split, int block, const LiftedBlock<1>& elements) {
  store_split(PlaneShare<kForm>(workspace, split.high), PlaneShare<kForm>(workspace, next(split.high)), block,
              elements);
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
    PlaneShare<kForm>(workspace, high).store(block, packed(elements));
  }
}

// A lane's share of a block in float32.
template <Form kForm, int kTimes>
__device__ inline LiftedBlock<kTimes> load_floats(const Workspace& workspace, Floats<kTimes> floats, int block) {
  LiftedBlock<kTimes> elements;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Fragment words = PlaneShare<kForm>(workspace, next(floats.first, half)).load(block);
#pragma unroll
    for (int w = 0; w < 4; ++w) elements.value[4 * half + w] = as_float(words.word[w]);
  }
  return elements;
}

template <Form kForm, int kTimes>
__device__ inline void store_floats(const Workspace& workspace, Floats<kTimes> floats, int block,
                                    const LiftedBlock<kTimes>& elements) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    Fragment words;
#pragma unroll
    for (int w = 0; w < 4; ++w) words.word[w] = as_word(elements.value[4 * half + w]);
    PlaneShare<kForm>(workspace, next(floats.first, half)).store(block, words);
  }
}

}  // namespace gcp_kernels
