// Sums over the channels, on and above the diagonal of an (M, M) matrix: z^T z, and z^T H + H^T z.
#pragma once

#include "device/feature_products.cuh"
#include "device/pairs.cuh"
#include "isqrt_pool/positions/features.cuh"

namespace gcp_kernels {

// Blocks of one block row of a panel, from `start` on, as an operand of its transpose.
template <Hand kHand>
struct PanelStrip {
  SharedAddress start;
  LaneOffset lane;

  __device__ Fragment load(int r) const { return load_block_transposed<kHand>(start + r * kBlockBytes, lane); }
};

// sums += U^T V over `rows` block rows of two panels, from `first` on.
template <Form kForm, int kPlanes>
__device__ inline void multiply_panels(const Workspace& workspace, const Panel& u, const Panel& v, int first, int rows,
                                       TileSums<kForm>& sums) {
  const WarpTile<kForm> tile = workspace.tile<kForm>();
#pragma unroll 1
  for (int pair = first_pair(kPlanes); pair < kPairs; ++pair) {
#pragma unroll 1
    for (int r = first; r < first + rows; ++r) {
      const PanelStrip<Hand::kLeft> left{u.block(r, tile.row(), left_is_low(pair)), LaneOffset()};
      const PanelStrip<Hand::kRight> right{v.block(r, tile.column(), right_is_low(pair)), LaneOffset()};
      multiply_tile<kForm>(tile.again(), left, right, sums);
    }
  }
}

// What tensor cores have summed is put aside after so many block rows (feature_products.cuh says why).
template <int kPlanes>
constexpr int kMostSummedRows = most_summed_columns(kPlanes);

// Leaves sums over all block rows of channels in totals(which), `kSums` of them, for each block of this warp's tile. So
// many rows are staged at a time: stage(first, rows) brings them into shared memory, and multiply(which, first, rows)
// adds so many of what is staged, at most `kMost`, to the sums.
template <Form kForm, int kSums, int kMost, typename Totals, typename Stage, typename Multiply>
__device__ inline void sum_rows(const Workspace& workspace, int channel_blocks, int rows_at_once, TileSums<kForm>& sums,
                                Totals totals, Stage stage, Multiply multiply) {
  for (int first = 0; first < channel_blocks; first += rows_at_once) {
    const int rows = min(rows_at_once, channel_blocks - first);
    block_barrier();  // what was there before is read
    stage(first, rows);
    block_barrier();  // the rows are staged
#pragma unroll 1
    for (int part = 0; part < rows; part += kMost) {
#pragma unroll 1
      for (int which = 0; which < kSums; ++which) {
        clear(sums);
        multiply(which, part, min(kMost, rows - part));
        for_each_block_in_turn<kForm>(workspace, sums, [&](LiftedBlock<2>& sum, int i, int j) {
          const int block = packed_block(i, j);
          if (first + part > 0) sum = combine(1.0f, sum, 1.0f, totals(which).load(block));
          totals(which).store(block, sum);
        });
      }
    }
  }
  block_barrier();  // the last rows have been read
}

// A lane's share of a block of K, made regular without a change to what comes of it. The rows of z sum to zero, so K
// has the vector of ones in its null space, where rounding would grow by 9/4 in every iteration; and z has no part in
// it, so its eigenvalue may be any. It is made 1/M. What is beyond the M positions, and all of a constant sample, whose
// trace is zero, is made the identity: that stays as it is, where zeros would have Z grow by 3/2 in every iteration.
__device__ inline LiftedBlock<1> regularised(const LiftedBlock<2>& total, int i, int j, int positions, bool constant) {
  LiftedBlock<1> gram = times(unlift(), total);
  const float count = static_cast<float>(positions);
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = element_row(i, e), column = element_column(j, e);
    const float identity = row == column ? 1.0f : 0.0f;
    const bool inside = row < positions && column < positions && !constant;
    gram.value[e] += lift().value * (inside ? 1.0f / (count * count) : identity);
  }
  return gram;
}

}  // namespace gcp_kernels
