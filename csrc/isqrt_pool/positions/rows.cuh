// Products with features, (C, M): who computes which part of one, and panels of what is in the slab.
#pragma once

#include "device/stream.cuh"
#include "isqrt_pool/positions/features.cuh"

namespace gcp_kernels {

// A warp's part of a product with features: one block row of channels, and a group of block columns.
struct RowGroup {
  int row, first_column, end_column;

  __device__ RowGroup(int unit, const PositionsLayout& layout) : row(unit / layout.groups()) {
    first_column = unit % layout.groups() * layout.group_columns();
    end_column = min(first_column + layout.group_columns(), layout.blocks());
  }
  __device__ bool has(int c) const { return first_column + c < end_column; }
};

// Begins to copy block rows from the slab, where they follow each other as in a panel, into one; wait_for_copies<0>()
// and a barrier end it.
template <int kPlanes>
__device__ inline void copy_rows(const SlabRows& rows, int first, int count, const Panel& panel) {
  const int offset = lane_of_thread() * static_cast<int>(sizeof(TileRow));
#pragma unroll 1
  for (int block = warp_of_thread(); block < count * panel.blocks; block += blockDim.x / kWarpSize) {
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      copy_async(panel.block(0, block, plane == 1) + offset, rows.block(first, block, plane == 1) + offset);
    }
  }
  commit_copies();
}

// visit(sum, block column) for every block of a warp's part. The sums pass through the first one, so that there is one
// visit in the code and not one for each.
template <Form kForm, typename Visit>
__device__ inline void for_each_column(const RowGroup& own, LiftedBlock<2> (&sums)[kColumns<kForm>], Visit visit) {
#pragma unroll 1
  for (int k = own.first_column; k < own.end_column; ++k) {
    visit(sums[0], k);
#pragma unroll
    for (int c = 0; c + 1 < kColumns<kForm>; ++c) sums[c] = sums[c + 1];
  }
}

// Blocks of the largest matrix of the small form, as at 7x7 positions.
constexpr int kWholeBlocks = most_blocks(Form::kSmall);

// sums += U V for a row of U and a symmetric V of so many blocks: all of it is spelled out, and where a block is, is a
// constant.
template <int kPlanes, bool kLowFirst>
__device__ inline void multiply_whole_row(const Workspace& workspace, Plane right,
                                          const SplitFragment (&row)[kWholeBlocks],
                                          LiftedBlock<2> (&sums)[kWholeBlocks]) {
  const LaneOffset lane;
  const SharedAddress high = workspace.in_shared(right), low = high + workspace.layout.plane_bytes();
  const auto load = [&](SharedAddress plane, int m, int c) {
    return m < c ? load_block_transposed<Hand::kRight>(plane + packed_block(m, c) * kBlockBytes, lane)
                 : load_block<Hand::kRight>(plane + packed_block(c, m) * kBlockBytes, lane);
  };
#pragma unroll 1
  for (int round = kLowFirst ? 0 : 1; round < 2; ++round) {
#pragma unroll
    for (int m = 0; m < kWholeBlocks; ++m) {
#pragma unroll
      for (int c = 0; c < kWholeBlocks; ++c) {
        const Fragment column = load(high, m, c);
        if (kPlanes == 2 && (!kLowFirst || round == 0)) {
          multiply_add(sums[c], row[m].low, column);
          multiply_add(sums[c], row[m].high, load(low, m, c));
        }
        if (round == 1) multiply_add(sums[c], row[m].high, column);
      }
    }
  }
}

// sums += U V for one warp's part of U, given by `left(m)`, and a symmetric V in the planes from `right` on. Where V
// may be in a slab, in the form kWhere, every warp takes part. Products with a low plane come first where the precision
// is that of two planes: what a tensor core cuts off is as small as the sum.
template <Form kForm, Form kWhere, int kPlanes, bool kLowFirst, typename Left>
__device__ inline void multiply_rows(const Workspace& workspace, Plane right, const RowGroup& own, Left left,
                                     LiftedBlock<2> (&sums)[kColumns<kForm>]) {
  const int blocks = workspace.layout.blocks;
  if constexpr (kForm == Form::kSmall) {
    if (blocks == kWholeBlocks) {
      SplitFragment row[kWholeBlocks];
#pragma unroll
      for (int m = 0; m < kWholeBlocks; ++m) row[m] = left(m);
      return multiply_whole_row<kPlanes, kLowFirst>(workspace, right, row, sums);
    }
  }
  Stream<kWhere> stream(workspace, right, kPlanes == 2 ? next(right) : right);
#pragma unroll 1
  for (int round = kLowFirst ? 0 : 1; round < 2; ++round) {
    stream.start();
#pragma unroll 1
    for (int m = 0; m < blocks; ++m) {
      stream.advance(m);
      const SplitFragment row = left(m);
      const AnyStrip<Hand::kRight> high(stream.left_operand(m), own.first_column, m);
      const AnyStrip<Hand::kRight> low(stream.right_operand(m), own.first_column, m);
#pragma unroll
      for (int c = 0; c < kColumns<kForm>; ++c) {
        if (!own.has(c)) break;
        const Fragment column = high.template load<Side::kCrossing>(c);
        if (kPlanes == 2 && (!kLowFirst || round == 0)) {
          multiply_add(sums[c], row.low, column);
          multiply_add(sums[c], row.high, low.template load<Side::kCrossing>(c));
        }
        if (round == 1) multiply_add(sums[c], row.high, column);
      }
    }
  }
}

}  // namespace gcp_kernels
