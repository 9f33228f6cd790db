// Products of two planes, whose block columns are streamed through a ring in shared memory where they are in a slab.
#pragma once

#include "device/planes.cuh"

namespace gcp_kernels {

// The two operands of a product, each a plane, and the block columns of those that are streamed, a few ahead of their
// use; every thread of the block takes part. What is asked of it in each step is found once, and kept in one register.
template <Form kForm>
struct Stream {
  const Workspace& workspace;
  // By bits, from 0: left plane; 8: right plane; 16, 17: whether each is streamed; 18: how many planes are, the same
  // one twice being one; 20: columns of each that the ring holds, 1, 2 or 4, less one.
  int packed;

  __device__ Stream(const Workspace& workspace_, Plane left, Plane right) : workspace(workspace_) {
    const int l = workspace.is_streamed<kForm>(left), r = workspace.is_streamed<kForm>(right);
    const int number = l + (left != right ? r : 0);
    const int most = number == 2 ? workspace.layout.ring_columns / 2 : workspace.layout.ring_columns;
    packed = static_cast<int>(left) | static_cast<int>(right) << 8 | l << 16 | r << 17 | number << 18 |
             ((most >= 4   ? 4
               : most >= 2 ? 2
                           : 1) -
              1) << 20;
  }

  __device__ Plane left() const { return static_cast<Plane>(recomputed(packed) & 0xff); }
  __device__ Plane right() const { return static_cast<Plane>(recomputed(packed) >> 8 & 0xff); }
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
          const int block = i < k ? packed_block(i, k) : packed_block(k, i);
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
  __device__ Operand operand(bool streamed, Plane plane, int number, int k) const {
    if (streamed) return {slot(k, number), 0, true};
    return resident_operand(workspace.in_shared(plane), k);
  }
  __device__ Operand left_operand(int k) const { return operand(left_streamed(), left(), 0, k); }
  __device__ Operand right_operand(int k) const { return operand(right_streamed(), right(), count() - 1, k); }
};

// sums += left right, for symmetric matrices given by one plane each; of the result the blocks of this warp's tile.
template <Form kForm>
__device__ inline void multiply_planes(const Workspace& workspace, const WarpTile<kForm>& tile, Plane left, Plane right,
                                       TileSums<kForm>& sums) {
  if constexpr (kStreams<kForm>) {
    const Stream<kForm> stream(workspace, left, right);
    stream.start();
#pragma unroll 1
    for (int k = 0; k < workspace.layout.blocks; ++k) {
      stream.advance(k);
      const AnyStrip<Hand::kLeft> rows(stream.left_operand(k), tile.row(), k);
      const AnyStrip<Hand::kRight> columns(stream.right_operand(k), tile.column(), k);
      for_each_stretch<kForm>(tile, [&](auto stretch, int begin, int end) {
        if (begin <= k && k < end) stretch.multiply_column(tile, rows, columns, sums);
      });
    }
  } else {
    const SharedAddress left_start = workspace.in_shared(left), right_start = workspace.in_shared(right);
    for_each_stretch<kForm>(tile.again(), [&](auto stretch, int begin, int end) {
      stretch.multiply(tile.again(), left_start, right_start, begin, end, sums);
    });
  }
}

template <Form kForm>
__device__ inline void multiply_planes(const Workspace& workspace, Plane left, Plane right, TileSums<kForm>& sums) {
  multiply_planes<kForm>(workspace, workspace.tile<kForm>(), left, right, sums);
}

}  // namespace gcp_kernels
