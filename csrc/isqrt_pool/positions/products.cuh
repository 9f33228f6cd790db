// The result of iSQRT-COV pooling from the factor q = q(K): sqrt(t) z q z^T.
//
// First T = z q, block rows of channels, into the slab; then a block row of T for each warp, in registers, by every
// block row of z. Sums are laid out as a left operand is once they are halves.
#pragma once

#include "device/feature_products.cuh"
#include "device/result_rows.cuh"
#include "isqrt_pool/matrices.h"
#include "isqrt_pool/positions/rows.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

// Block row i of T as left operands: in registers or, where these would be more than half of all, as they are needed.
template <Form kForm, int kPlanes>
struct ProductRow {
  static constexpr bool kInRegisters = most_blocks(kForm) * kPlanes <= kMostIteratedPositions / kBlockSide;
  static constexpr int kKept = kInRegisters ? most_blocks(kForm) : 1;
  const SlabRows& rows;
  int i;
  Fragment kept[kPlanes][kKept];

  __device__ ProductRow(const SlabRows& rows_, int i_) : rows(rows_), i(i_) {
    if constexpr (kInRegisters) {
#pragma unroll
      for (int plane = 0; plane < kPlanes; ++plane) {
#pragma unroll
        for (int k = 0; k < kKept; ++k) kept[plane][k] = rows.load(i, min(k, rows.blocks - 1), plane == 1);
      }
    }
  }
  __device__ Fragment block(int k, bool low) const {
    if constexpr (kInRegisters) {
      return kept[low ? kPlanes - 1 : 0][k];
    } else {
      return rows.load(i, k, low);
    }
  }
};

// T for the block rows from `first` on, whose features are in the panel. The factor is the first matrix, in shared
// memory in every form.
template <Form kForm, int kPlanes>
__device__ inline void multiply_by_factor(const Workspace& workspace, const PositionsLayout& layout, const Panel& panel,
                                          int first, int rows, const SlabRows& result) {
#pragma unroll 1
  for (int unit = warp_of_thread(); unit < rows * layout.groups(); unit += blockDim.x / kWarpSize) {
    const RowGroup own(unit, layout);
    LiftedBlock<2> sums[kColumns<kForm>] = {};
    multiply_rows<kForm, Form::kResident, kPlanes, kPlanes == 2>(
        workspace, plane_of(Matrices<false>::kW, kPlanes), own,
        [&](int m) {
          const LaneOffset lane;
          SplitFragment z;
          z.high = load_block<Hand::kLeft>(panel.block(own.row, m, false), lane);
          if constexpr (kPlanes == 2) z.low = load_block<Hand::kLeft>(panel.block(own.row, m, true), lane);
          return z;
        },
        sums);
    for_each_column<kForm>(own, sums, [&](const LiftedBlock<2>& sum, int k) {
      const LiftedBlock<1> z = panel.elements(own.row, k, kPlanes);
      const SplitFragment split = split_fragment(combine(unlift(), sum, plain(kept(workspace, Kept::kIdentity)), z));
      result.store(first + own.row, k, false, split.high);
      if constexpr (kPlanes == 2) result.store(first + own.row, k, true, split.low);
    });
  }
}

// Stores every block of the result; what is kept of the factor and of the scale is in shared memory. Features pass
// through the panel; it holds them already where the layout keeps them.
template <Form kForm, int kPlanes>
__device__ inline void store_products(const Workspace& workspace, const PositionsLayout& layout, const Sample& sample,
                                      const SymmetricOutput& pooled, const PositionsSlab& slab) {
  const int blocks = layout.blocks(), channel_blocks = layout.channel_blocks;
  const int most_rows = min(layout.panel_rows(), channel_blocks);
  const Panel panel = panel_at(workspace.start() + layout.panel_offset, most_rows, blocks);
  for (int first = 0; first < channel_blocks; first += most_rows) {
    const int rows = min(most_rows, channel_blocks - first);
    const SlabRows products = slab.rows();
    block_barrier();  // the factor is written, and the last panel has been read
    if (!layout.keeps_features()) {
      copy_rows<kPlanes>(slab.features(), first, rows, panel);
      wait_for_copies<0>();
      block_barrier();  // the features are there
    }
    multiply_by_factor<kForm, kPlanes>(workspace, layout, panel, first, rows, products);
    block_barrier();  // these rows of T are written
    // Back and forth over the warps: the first of these rows has the most blocks.
    const int warps = layout.rings, warp = warp_of_thread();
#pragma unroll 1
    for (int round = 0; warp < warps && round * warps < first + rows; ++round) {
      const int i = round * warps + (round % 2 == 0 ? warp : warps - 1 - warp);
      if (i >= first + rows) continue;
      const ProductRow<kForm, kPlanes> row(products, i);
      const SharedAddress ring = workspace.start() + layout.rings_offset + warp * kRingBytes;
      store_result_rows(pooled, sample.number(), i, max(i, first), first + rows, ring, [&](int j) {
        const LaneOffset lane;
        // In "high" products with a low plane are summed apart, and others put aside after some (feature_products.cuh
        // says why): what a tensor core cuts off is as large as the sum.
        LiftedBlock<2> sum{}, small{}, aside{};
#pragma unroll
        for (int k = 0; k < most_blocks(kForm); ++k) {
          if (k >= blocks) continue;
          if (kPlanes == 2 && k == most_summed_columns(2)) {
            aside = sum;
            sum = {};
          }
          const Fragment high = load_block<Hand::kRight>(panel.block(j - first, k, false), lane);
          if constexpr (kPlanes == 2) {
            multiply_add(small, row.block(k, true), high);
            multiply_add(sum, row.block(k, false), load_block<Hand::kRight>(panel.block(j - first, k, true), lane));
          }
          multiply_add(sum, row.block(k, false), high);
        }
        return times(kept(workspace, Kept::kScale) * unlift() * unlift(),
                     kPlanes == 2 ? combine(1.0f, combine(1.0f, small, 1.0f, sum), 1.0f, aside) : sum);
      });
    }
  }
}

}  // namespace gcp_kernels
