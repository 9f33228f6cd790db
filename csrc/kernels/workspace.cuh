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

// A plane of a matrix, in shared memory or in this CTA's slab.
struct Plane {
  bool streamed;
  SharedAddress shared;
  char* slab;
};

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
  template <bool kStreamed>
  __device__ bool is_streamed(int plane) const {
    return kStreamed && plane >= layout.resident * layout.planes;
  }
  __device__ SharedAddress in_shared(int plane) const { return start() + plane * layout.plane_bytes(); }
  __device__ char* in_slab(int plane) const {
    const std::int64_t cta = recomputed(static_cast<int>(blockIdx.x));
    return slabs + cta * layout.slab_bytes() +
           static_cast<std::int64_t>(plane - layout.resident * layout.planes) * layout.plane_bytes();
  }
  template <bool kStreamed>
  __device__ Plane plane(int plane) const {
    const int number = kStreamed ? recomputed(plane) : plane;
    if (is_streamed<kStreamed>(number)) return {true, 0, in_slab(number)};
    return {false, in_shared(number), nullptr};
  }
};

// The two operands of a product, each a plane, and the block columns of those that are streamed, a few ahead of their
// use; every thread of the block takes part. One register, from which the rest is computed when it is needed.
template <bool kStreamed>
struct Stream {
  const Workspace& workspace;
  int operands;  // left and right plane

  __device__ Stream(const Workspace& workspace_, int left, int right)
      : workspace(workspace_), operands(left | right << 8) {}

  __device__ int left() const { return recomputed(operands) & 0xff; }
  __device__ int right() const { return recomputed(operands) >> 8; }

  // How many planes are streamed: the same one twice is one.
  __device__ int count() const {
    if (!kStreamed) return 0;
    const int l = left(), r = right();
    return (workspace.is_streamed<kStreamed>(l) ? 1 : 0) + (workspace.is_streamed<kStreamed>(r) && l != r ? 1 : 0);
  }

  // Columns of each plane that the ring holds: 1, 2 or 4.
  __device__ int stages() const {
    const int most = count() == 2 ? workspace.layout.ring_columns / 2 : workspace.layout.ring_columns;
    return most >= 4 ? 4 : most >= 2 ? 2 : 1;
  }

  __device__ SharedAddress slot(int k, int number) const {
    return workspace.ring() + ((k & (stages() - 1)) * count() + number) * workspace.layout.blocks * kBlockBytes;
  }

  // Begins to copy block column k: a warp for each block, 16 bytes a lane.
  __device__ void fetch(int k) const {
    const int blocks = workspace.layout.blocks;
    if (k < blocks) {
#pragma unroll 1
      for (int number = 0; number < count(); ++number) {
        const bool is_left = number == 0 && workspace.is_streamed<kStreamed>(left());
        const char* plane = workspace.in_slab(is_left ? left() : right());
        const int offset = lane_of_thread() * static_cast<int>(sizeof(TileRow));
#pragma unroll 1
        for (int i = warp_of_thread(); i < blocks; i += blockDim.x / kWarpSize) {
          const int block = i < k ? packed_index(i, k) : packed_index(k, i);
          copy_async(slot(k, number) + i * kBlockBytes + offset, plane + block * kBlockBytes + offset);
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
  __device__ Operand operand(int plane, int number, int k) const {
    if (workspace.is_streamed<kStreamed>(plane)) return {slot(k, number), 0, true};
    const SharedAddress start = workspace.in_shared(plane);
    return {start + triangle_number(k) * kBlockBytes, start, false};
  }
  __device__ Operand left_operand(int k) const { return operand(left(), 0, k); }
  __device__ Operand right_operand(int k) const { return operand(right(), count() - 1, k); }
};

// sums += left right, lifted twice, for symmetric matrices given by one plane each.
template <bool kStreamed>
__device__ inline void multiply_planes(const Workspace& workspace, int left, int right, TileSums& sums) {
  const Stream<kStreamed> stream(workspace, left, right);
  const WarpTile tile = WarpTile::of_warp(workspace.tiles(), workspace.layout.blocks);
  stream.start();
#pragma unroll 1
  for (int k = 0; k < workspace.layout.blocks; ++k) {
    stream.advance(k);
    multiply_column<kStreamed>(tile.again(), stream.left_operand(k), stream.right_operand(k), k, LaneOffset(), sums);
  }
}

// Word w of a lane's share of block `block` of a plane.
__device__ inline std::uint32_t load_word(const Plane& plane, int block, int w) {
  const int offset = block * kBlockBytes + w * kTileBytes + lane_of_thread() * 4;
  if (!plane.streamed) return load_shared(plane.shared + offset);
  return *reinterpret_cast<const std::uint32_t*>(plane.slab + offset);
}

__device__ inline void store_word(const Plane& plane, int block, int w, std::uint32_t word) {
  const int offset = block * kBlockBytes + w * kTileBytes + lane_of_thread() * 4;
  if (!plane.streamed) {
    store_shared(plane.shared + offset, word);
  } else {
    *reinterpret_cast<std::uint32_t*>(plane.slab + offset) = word;
  }
}

// A lane's share of a block of what `planes` planes from number `first` on hold, lifted.
template <bool kStreamed>
__device__ inline BlockSum load_planes(const Workspace& workspace, int first, int planes, int block) {
  BlockSum elements{};
  for (int p = 0; p < planes; ++p) {
    const Plane plane = workspace.plane<kStreamed>(first + p);
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const std::uint32_t word = load_word(plane, block, w);
      elements.value[2 * w] += first_half(word);
      elements.value[2 * w + 1] += second_half(word);
    }
  }
  return elements;
}

template <bool kStreamed>
__device__ inline BlockSum load_elements(const Workspace& workspace, int matrix, int block) {
  return load_planes<kStreamed>(workspace, matrix * workspace.layout.planes, workspace.layout.planes, block);
}

// Splits lifted elements into `planes` planes that follow the plane number `first`.
template <bool kStreamed>
__device__ inline void store_planes(const Workspace& workspace, int first, int planes, int block,
                                    const BlockSum& elements) {
  const Plane high = workspace.plane<kStreamed>(first);
  BlockSum rest;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const float a = elements.value[2 * w], b = elements.value[2 * w + 1];
    const std::uint32_t word = pack_halves(a, b);
    store_word(high, block, w, word);
    rest.value[2 * w] = a - first_half(word);
    rest.value[2 * w + 1] = b - second_half(word);
  }
  if (planes == 1) return;
  const Plane low = workspace.plane<kStreamed>(first + 1);
#pragma unroll
  for (int w = 0; w < 4; ++w) store_word(low, block, w, pack_halves(rest.value[2 * w], rest.value[2 * w + 1]));
}

template <bool kStreamed>
__device__ inline void store_elements(const Workspace& workspace, int matrix, int block, const BlockSum& elements) {
  store_planes<kStreamed>(workspace, matrix * workspace.layout.planes, workspace.layout.planes, block, elements);
}

// A lane's share of a block in float32, which takes the plane `first` and the next.
template <bool kStreamed>
__device__ inline BlockSum load_floats(const Workspace& workspace, int first, int block) {
  BlockSum elements;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Plane plane = workspace.plane<kStreamed>(first + half);
#pragma unroll
    for (int w = 0; w < 4; ++w) elements.value[4 * half + w] = as_float(load_word(plane, block, w));
  }
  return elements;
}

template <bool kStreamed>
__device__ inline void store_floats(const Workspace& workspace, int first, int block, const BlockSum& elements) {
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const Plane plane = workspace.plane<kStreamed>(first + half);
#pragma unroll
    for (int w = 0; w < 4; ++w) store_word(plane, block, w, as_word(elements.value[4 * half + w]));
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
