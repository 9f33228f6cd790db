// The product z z^T of one sample's weighted features, as totals in float32.
#pragma once

#include "device/features.cuh"
#include "device/pairs.cuh"

namespace gcp_kernels {

// Tensor cores cut off what they add instead of rounding it, in the least accurate ones two times for each block column
// by up to 2^-23 of the sum (tests/cuda_emulation/tensor_cores.h), which over the positions of a video would add up to
// 1e-4: they sum no more than so many, and totals of these are rounded. It is as much as there is room for.
constexpr int kMostSummedColumns = 8;

// Adds this warp's sums to the totals, or begins them.
template <Form kForm>
__device__ inline void add_to_totals(const Workspace& workspace, Floats<2> totals, bool begin, TileSums<kForm>& sums) {
  for_each_block<kForm>(workspace, sums, [&](LiftedBlock<2>& sum, int i, int j) {
    const int block = packed_block(i, j);
    if (!begin) sum = combine(1.0f, sum, 1.0f, load_floats<kForm>(workspace, totals, block));
    store_floats<kForm>(workspace, totals, block, sum);
  });
}

// Leaves the sum of z z^T for z = weight (x - mu) split into `planes` in `totals`. The features pass through
// kFeaturesPlace.
template <Form kForm>
__device__ inline void multiply_features(const Workspace& workspace, const Sample& sample, int planes, Floats<2> totals,
                                         TileSums<kForm>& sums) {
  const int blocks = workspace.layout.blocks;
  const int positions = sample.features.positions;
  const int room = workspace.layout.plane_blocks() * workspace.layout.planes / (blocks * planes);
  const int most_columns = min(room, kMostSummedColumns);
  for (int first = 0; first * kBlockSide < positions; first += most_columns) {
    // Recomputed, since what the compiler would derive from the loop's count takes registers over the products.
    const int columns = min(most_columns, recomputed(ceil_divide(positions - first * kBlockSide, kBlockSide)));
    const int low_plane = columns * blocks * kBlockBytes;
    block_barrier();  // what was there before is read, and the channel arrays are written
    stage_features(workspace, sample, first * kBlockSide, columns, planes);
    block_barrier();  // the features are staged
    const WarpTile<kForm> tile = workspace.tile<kForm>();
    clear(sums);
    for (int pair = first_pair(planes); pair < kPairs; ++pair) {
      for (int k = 0; k < columns; ++k) {
        const SharedAddress column = workspace.start() + k * blocks * kBlockBytes;
        const Operand left{column + (left_is_low(pair) ? low_plane : 0), 0, false};
        const Operand right{column + (right_is_low(pair) ? low_plane : 0), 0, false};
        if (tile.again().diagonal()) {
          multiply_diagonal<Side::kStored, kForm>(tile.again(), left, right, 0, LaneOffset(), sums);
        } else {
          multiply_rectangle<Side::kStored, Side::kStored, kForm>(tile.again(), left, right, 0, LaneOffset(), sums);
        }
      }
    }
    add_to_totals<kForm>(workspace, totals, first == 0, sums);
  }
}

}  // namespace gcp_kernels
