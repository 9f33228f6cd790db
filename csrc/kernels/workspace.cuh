// The matrices of one sample: where each lives, and products between them.
//
// A matrix is one plane of halves ("fast", an 11-bit significand), or a high and a low one that holds what the first
// rounded away ("high", 22 bits; the product of two low planes is left out). Elements are lifted by 2^6, which keeps
// the low planes of matrices with elements near 1/C out of the subnormal range of halves; no matrix of the iteration
// grows beyond their range (docs/mathematics.md).
#pragma once

#include "layout.h"
#include "symmetric.cuh"

namespace gcp_kernels {

constexpr float kLift = 64.0f;
constexpr float kUnlift = 1.0f / kLift;

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

  // Planes are numbered through: matrix * layout.planes, and the next for the low one.
  template <Form kForm>
  __device__ bool is_streamed(int plane) const {
    return kStreams<kForm> && plane >= layout.resident * layout.planes;
  }
  __device__ SharedAddress in_shared(int plane) const { return start() + plane * layout.plane_bytes(); }
  __device__ char* in_slab(int plane) const {
    const std::uint32_t cta = recomputed(static_cast<int>(blockIdx.x));
    const std::uint32_t streamed = (layout.matrices - layout.resident) * layout.planes;
    // 32 bits are enough: the host entry has checked that.
    return slabs + (cta * streamed + static_cast<std::uint32_t>(plane - layout.resident * layout.planes)) *
                       static_cast<std::uint32_t>(layout.plane_bytes());
  }
  // The blocks of the result that this warp owns.
  template <Form kForm>
  __device__ WarpTile<kForm> tile() const {
    return WarpTile<kForm>::of_warp(tiles(), layout.blocks);
  }
};

// The two operands of a product, each a plane, and the block columns of those that are streamed, a few ahead of their
// use; every thread of the block takes part. What is asked of it in each step is found once, and kept in one register.
template <Form kForm>
struct Stream {
  const Workspace& workspace;
  // By bits, from 0: left plane; 8: right plane; 16, 17: whether each is streamed; 18: how many planes are, the same
  // one twice being one; 20: columns of each that the ring holds, 1, 2 or 4, less one.
  int packed;

  __device__ Stream(const Workspace& workspace_, int left, int right) : workspace(workspace_) {
    const int l = workspace.is_streamed<kForm>(left), r = workspace.is_streamed<kForm>(right);
    const int number = l + (left != right ? r : 0);
    const int most = number == 2 ? workspace.layout.ring_columns / 2 : workspace.layout.ring_columns;
    packed = left | right << 8 | l << 16 | r << 17 | number << 18 | ((most >= 4 ? 4 : most >= 2 ? 2 : 1) - 1) << 20;
  }

  __device__ int left() const { return recomputed(packed) & 0xff; }
  __device__ int right() const { return recomputed(packed) >> 8 & 0xff; }
  __device__ bool left_streamed() const { return kStreams<kForm> && (recomputed(packed) & 1 << 16); }
  __device__ bool right_streamed() const { return kStreams<kForm> && (recomputed(packed) & 1 << 17); }
  __device__ int count() const { return kStreams<kForm> ? recomputed(packed) >> 18 & 3 : 0; }
  __device__ int stages() const { return (recomputed(packed) >> 20) + 1; }

  __device__ SharedAddress slot(int k, int number) const {
    return workspace.ring() +
           ((k & recomputed(packed) >> 20) * count() + number) * workspace.layout.blocks * kBlockBytes;
  }

  // Begins to copy block column k: a warp for each block, 16 bytes a lane.
  __device__ void fetch(int k) const {
    const int blocks = workspace.layout.blocks;
    if (k < blocks) {
#pragma unroll 1
      for (int number = 0; number < count(); ++number) {
        const bool is_left = number == 0 && left_streamed();
        const char* plane = workspace.in_slab(is_left ? left() : right());
        const int offset = lane_of_thread() * static_cast<int>(sizeof(TileRow));
        const SharedAddress to = slot(k, number) + offset;
#pragma unroll 1
        for (int i = warp_of_thread(); i < blocks; i += blockDim.x / kWarpSize) {
          const int block = i < k ? packed_index(i, k) : packed_index(k, i);
          copy_async(to + i * kBlockBytes, plane + static_cast<std::uint32_t>(block * kBlockBytes + offset));
        }
      }
    }
    commit_copies();
  }

  __device__ void start() const {
    if (count() == 0) return;
    block_barrier();  // the ring is free, and what the slabs hold is written
    for (int k = 0; k < stages() - 1; ++k) fetch(k);
  }

  // Until block column k is there for every thread.
  __device__ void advance(int k) const {
    if (count() == 0) return;
    if (stages() == 1) {
      block_barrier();  // the last column has been used
      fetch(k);
      wait_for_copies<0>();
      block_barrier();
      return;
    }
    if (stages() == 2) {
      wait_for_copies<0>();
    } else {
      wait_for_copies<2>();
    }
    block_barrier();  // ... and the column before it has been used
    fetch(k + stages() - 1);
  }

  // Where column k of a plane is, the one number `number` of those streamed.
  __device__ Operand operand(bool streamed, int plane, int number, int k) const {
    if (streamed) return {slot(k, number), 0, true};
    const SharedAddress start = workspace.in_shared(plane);
    return {start + triangle_number(k) * kBlockBytes, start, false};
  }
  __device__ Operand left_operand(int k) const { return operand(left_streamed(), left(), 0, k); }
  __device__ Operand right_operand(int k) const { return operand(right_streamed(), right(), count() - 1, k); }
};

// sums += left right, lifted twice, for symmetric matrices given by one plane each.
template <Form kForm>
__device__ inline void multiply_planes(const Workspace& workspace, int left, int right, TileSums<kForm>& sums) {
  const Stream<kForm> stream(workspace, left, right);
  const WarpTile<kForm> tile = workspace.tile<kForm>();
  stream.start();
#pragma unroll 1
  for (int k = 0; k < workspace.layout.blocks; ++k) {
    stream.advance(k);
    multiply_column<kForm>(tile.again(), stream.left_operand(k), stream.right_operand(k), k, LaneOffset(), sums);
  }
}

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

  __device__ BlockShare(const Workspace& workspace, int plane, int block) {
    const int number = kStreams<kForm> ? recomputed(plane) : plane;
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

// A lane's share of a block of what kPlanes planes from number `first` on hold, lifted.
template <Form kForm, int kPlanes>
__device__ inline BlockSum load_planes(const Workspace& workspace, int first, int block) {
  BlockSum elements;
  const BlockShare<kForm> high(workspace, first, block);
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const std::uint32_t word = high.load(w);
    elements.value[2 * w] = first_half(word);
    elements.value[2 * w + 1] = second_half(word);
  }
  if constexpr (kPlanes == 2) {
    const BlockShare<kForm> low(workspace, first + 1, block);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const std::uint32_t word = low.load(w);
      elements.value[2 * w] += first_half(word);
      elements.value[2 * w + 1] += second_half(word);
    }
  }
  return elements;
}

// Rounds lifted elements to halves in the plane `high`, and leaves what that takes away in the plane `low`.
template <Form kForm>
__device__ inline void store_split(const Workspace& workspace, int high, int low, int block, const BlockSum& elements) {
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

// Splits lifted elements into kPlanes planes from number `first` on.
template <Form kForm, int kPlanes>
__device__ inline void store_planes(const Workspace& workspace, int first, int block, const BlockSum& elements) {
  if constexpr (kPlanes == 2) {
    store_split<kForm>(workspace, first, first + 1, block, elements);
  } else {
    const BlockShare<kForm> share(workspace, first, block);
#pragma unroll
    for (int w = 0; w < 4; ++w) share.store(w, pack_halves(elements.value[2 * w], elements.value[2 * w + 1]));
  }
}

// The same for a matrix of the iteration, whose planes are numbered through.
template <Form kForm, int kPlanes>
__device__ inline BlockSum load_elements(const Workspace& workspace, int matrix, int block) {
  return load_planes<kForm, kPlanes>(workspace, matrix * kPlanes, block);
}

template <Form kForm, int kPlanes>
__device__ inline void store_elements(const Workspace& workspace, int matrix, int block, const BlockSum& elements) {
  store_planes<kForm, kPlanes>(workspace, matrix * kPlanes, block, elements);
}

// A lane's share of a block in float32, which takes the plane `first` and the next.
template <Form kForm>
__device__ inline BlockSum load_floats(const Workspace& workspace, int first, int block) {
  BlockSum elements;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const BlockShare<kForm> share(workspace, first + half, block);
#pragma unroll
    for (int w = 0; w < 4; ++w) elements.value[4 * half + w] = as_float(share.load(w));
  }
  return elements;
}

template <Form kForm>
__device__ inline void store_floats(const Workspace& workspace, int first, int block, const BlockSum& elements) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const BlockShare<kForm> share(workspace, first + half, block);
#pragma unroll
    for (int w = 0; w < 4; ++w) share.store(w, as_word(elements.value[4 * half + w]));
  }
}

// The sum over the block of one number for each thread, the same to the last bit in all of them.
__device__ inline float block_sum(const Workspace& workspace, float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value += shuffle_xor(value, mask);
  block_barrier();  // the partial sums of the last time are read
  if (lane_of_thread() == 0) store_shared(workspace.partial_sums() + warp_of_thread() * 4, as_word(value));
  block_barrier();
  float total = 0.0f;
  const int warps = blockDim.x / kWarpSize;
  for (int warp = 0; warp < warps; ++warp) total += as_float(load_shared(workspace.partial_sums() + warp * 4));
  return total;
}

// The larger number; NaN if one is.
__device__ inline float larger(float a, float b) { return a > b || a != a ? a : b; }

// The largest of one number for each thread; NaN if one is.
__device__ inline float block_max(const Workspace& workspace, float value) {
#pragma unroll
  for (int mask = kWarpSize / 2; mask > 0; mask /= 2) value = larger(value, shuffle_xor(value, mask));
  block_barrier();  // the partial sums of the last time are read
  if (lane_of_thread() == 0) store_shared(workspace.partial_sums() + warp_of_thread() * 4, as_word(value));
  block_barrier();
  float largest = value;
  const int warps = blockDim.x / kWarpSize;
  for (int warp = 0; warp < warps; ++warp) {
    largest = larger(largest, as_float(load_shared(workspace.partial_sums() + warp * 4)));
  }
  return largest;
}

}  // namespace gcp_kernels
