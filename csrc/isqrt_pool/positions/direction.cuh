// H = G z for one sample, with G the direction of device/direction.cuh, (C, C): block rows of channels in the slab,
// split into a high and a low plane.
#pragma once

#include "device/direction.cuh"
#include "device/feature_products.cuh"
#include "device/pairs.cuh"
#include "isqrt_pool/positions/rows.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

// The largest magnitude of G + G^T.
__device__ inline float largest_of_gradient(const Workspace& workspace, const SymmetricGradient& grad,
                                            std::int64_t number, int channel_blocks) {
  float largest = 0.0f;
  int i = 0, j = 0;  // the block number `block` of those on and above the diagonal, column after column
#pragma unroll 1
  for (int block = warp_of_thread(); block < triangle_number(channel_blocks); block += blockDim.x / kWarpSize) {
    while (triangle_number(j + 1) <= block) ++j;
    i = block - triangle_number(j);
    const LiftedBlock<0> twice = load_twice_symmetric(grad, number, i, j);
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = larger(largest, fabsf(twice.value[e]));
  }
  return block_max(workspace, largest);
}

// Stores blocks (first_row.., first_column..) of (G + G^T) / largest, lifted, in a panel of their own.
template <int kPlanes>
__device__ inline void stage_gradient(const SymmetricGradient& grad, std::int64_t number, float largest, int first_row,
                                      int rows, int first_column, int columns, const Panel& panel) {
#pragma unroll 1
  for (int block = warp_of_thread(); block < rows * columns; block += blockDim.x / kWarpSize) {
    const int r = block / columns, c = block % columns;
    const LiftedBlock<0> twice = load_twice_symmetric(grad, number, first_row + r, first_column + c);
    const SplitFragment split = split_fragment(direction_of(twice, largest, lift()));
    const SharedAddress at = panel.block(r, c, false) + lane_of_thread() * 4;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      store_shared(at + w * kTileBytes, split.high.word[w]);
      if constexpr (kPlanes == 2) store_shared(at + panel.plane_bytes + w * kTileBytes, split.low.word[w]);
    }
  }
}

// Leaves H = (G + G^T) / largest z in the slab, and z itself. The features are split in every precision: of a
// covariance of rank one their rounding would be most of the error of "fast". Rows of G and of z pass through all of
// the layout's room.
template <Form kForm, int kPlanes>
__device__ inline void store_direction_rows(const Workspace& workspace, const PositionsLayout& layout,
                                            const SymmetricGradient& grad, const WeightedSample& weighted,
                                            const PositionsSlab& slab) {
  // Asked for again and again: beside the sums every register counts.
  const auto channel_blocks = [&] { return recomputed(layout.channel_blocks); };
  const auto rows_at_once = [&] { return min(layout.rows_of(blockDim.x / kWarpSize), channel_blocks()); };
  const auto split_row = [&] { return 2 * recomputed(layout.blocks()) * kBlockBytes; };
  const auto columns_at_once = [&] {
    const int room = recomputed(layout.room()) / (split_row() + rows_at_once() * kPlanes * kBlockBytes);
    return min(min(room, channel_blocks()), kPlanes == 2 ? most_summed_columns(2) : channel_blocks());
  };
  const auto z = [&] { return panel_at(workspace.start(), columns_at_once(), recomputed(layout.blocks())); };
  const auto g = [&] {
    return panel_at(workspace.start() + columns_at_once() * split_row(), rows_at_once(), columns_at_once());
  };
  LiftedBlock<2> sums[kColumns<kForm>];
  for (int row = 0; row < channel_blocks(); row += rows_at_once()) {
    const auto rows = [&] { return min(rows_at_once(), channel_blocks() - row); };
    clear(sums);
    for (int column = 0; column < channel_blocks(); column += columns_at_once()) {
      const auto columns = [&] { return min(columns_at_once(), channel_blocks() - column); };
      block_barrier();  // what was there before is read, and what is kept is written
      // Where all of it is there at once, it stays.
      if (row == 0) {
        stage_rows<kForm>(weighted, column, columns(), 2, z(), true, [&] { return slab.features(); });
      } else if (columns_at_once() < channel_blocks()) {
        copy_rows<2>(slab.features(), column, columns(), z());
      }
      stage_gradient<kPlanes>(grad, weighted.sample.number(), kept(workspace, Kept::kLargest), row, rows(), column,
                              columns(), g());
      wait_for_copies<0>();
      block_barrier();  // both are staged
      const RowGroup own(warp_of_thread(), layout);
      if (own.row >= rows()) continue;
      const Panel left = g(), right = z();
      const LaneOffset lane;
      const int count = columns();
#pragma unroll 1
      for (int j = 0; j < count; ++j) {
        const Fragment high = load_block<Hand::kLeft>(left.block(own.row, j, false), lane);
        Fragment low;
        if constexpr (kPlanes == 2) low = load_block<Hand::kLeft>(left.block(own.row, j, true), lane);
#pragma unroll
        for (int c = 0; c < kColumns<kForm>; ++c) {
          if (!own.has(c)) break;
          const int k = own.first_column + c;
          const Fragment column = load_block_transposed<Hand::kRight>(right.block(j, k, false), lane);
          if constexpr (kPlanes == 2) multiply_add(sums[c], low, column);
          multiply_add(sums[c], high, load_block_transposed<Hand::kRight>(right.block(j, k, true), lane));
          multiply_add(sums[c], high, column);
        }
      }
      const bool last = column + columns() == channel_blocks();
      if (kPlanes == 1 && !last) continue;
      // In "high" what tensor cores have summed is put aside (feature_products.cuh says why): added to what is there.
      const SlabRows result = slab.rows();
      for_each_column<kForm>(own, sums, [&](const LiftedBlock<2>& sum, int k) {
        LiftedBlock<1> h = times(unlift(), sum);
        if (column > 0 && kPlanes == 2) h = combine(1.0f, h, 1.0f, result.elements(row + own.row, k));
        const SplitFragment split = split_fragment(h);
        result.store(row + own.row, k, false, split.high);
        result.store(row + own.row, k, true, split.low);
      });
      if (kPlanes == 2) clear(sums);
    }
  }
}

}  // namespace gcp_kernels
