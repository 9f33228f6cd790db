// The product z z^T of one sample's weighted features, in the sums of a warp's tile.
#pragma once

#include "device/features.cuh"
#include "device/pairs.cuh"

namespace gcp_kernels {

// Tensor cores cut off what they add instead of rounding it, in the least accurate ones two times for each block column
// by up to 2^-23 of the sum (tests/support/cuda_emulation/tensor_cores.h): n columns may take 2^-22 n, which over the
// positions of a video would be 1e-4. So they sum no more than so many columns in a row, and the totals of these are
// rounded: in one plane, "fast", what a hundredth of its promise of 2.5e-3 allows, in two, "high", a third of 5e-6.
__device__ constexpr int most_summed_columns(int planes) { return planes == 1 ? 64 : 8; }

// Totals in float32 take the last two planes of the pass: few sizes need them, and the features are staged before them.
__device__ inline Floats<2> feature_totals(const Workspace& workspace) {
  const Layout& layout = workspace.layout;
  return {static_cast<Plane>(layout.matrices * layout.planes - 2)};
}

// Adds the totals, but for the first sums, and leaves the new ones there, but for the last ones: those stay sums.
template <Form kForm>
__device__ inline void put_aside(const Workspace& workspace, bool first, bool last, TileSums<kForm>& sums) {
  for_each_block_in_turn<kForm>(workspace, sums, [&](LiftedBlock<2>& sum, int i, int j) {
    const int block = packed_block(i, j);
    const Floats<2> totals = feature_totals(workspace);
    if (!first) sum = combine(1.0f, sum, 1.0f, load_floats<kForm>(workspace, totals, block));
    if (last) return;
    store_floats<kForm>(workspace, totals, block, sum);
    sum = LiftedBlock<2>{};
  });
}

// Block columns of the features.
__device__ inline int feature_columns(const Sample& sample) {
  return ceil_divide(recomputed(sample.features.positions), kBlockSide);
}

__device__ inline bool needs_totals(const Sample& sample, int planes) {
  return feature_columns(sample) > most_summed_columns(planes);
}

// How many of them are staged in one round: in all shared memory, or before the totals. Worked out wherever it is asked
// for: beside the sums of a tile every register counts.
__device__ inline int columns_of_round(const Workspace& workspace, const Sample& sample, int planes) {
  Layout layout = workspace.layout;
  layout.blocks = recomputed(layout.blocks);
  int room = layout.room();
  if (needs_totals(sample, planes)) {
    room = min(room, layout.room_before(static_cast<int>(feature_totals(workspace).first)));
  }
  return min(room / (planes * layout.blocks * kBlockBytes), most_summed_columns(planes));
}

// Leaves the sum of z z^T for z = weight (x - mu) split into `planes` in `sums`. The features are staged in shared
// memory from its start on, where nothing else may be, in as few rounds as it allows. A kernel with slabs has more to
// keep in registers beside the sums.
template <Form kForm, bool kSlabs = kStreams<kForm>>
__device__ inline void multiply_features(const Workspace& workspace, const Sample& sample, int planes,
                                         TileSums<kForm>& sums) {
  constexpr int kAtOnce = kSlabs && kForm != Form::kSmall ? 1 : kOctetsBesideSums;
  clear(sums);
  for (int first = 0; first < feature_columns(sample); first += columns_of_round(workspace, sample, planes)) {
    const auto columns = [&] {
      return min(columns_of_round(workspace, sample, planes), feature_columns(sample) - first);
    };
    block_barrier();  // what was there before is read, and the channel arrays are written
    stage_features<kAtOnce>(workspace, sample, workspace.start(), first * kBlockSide, columns(), planes);
    block_barrier();  // the features are staged
    const WarpTile<kForm> tile = workspace.tile<kForm>();
    const int blocks = workspace.layout.blocks, count = columns();
    const int low_plane = count * blocks * kBlockBytes;
    for (int pair = first_pair(planes); pair < kPairs; ++pair) {
      for (int k = 0; k < count; ++k) {
        const SharedAddress column = workspace.start() + k * recomputed(blocks) * kBlockBytes;
        const Operand left{column + (left_is_low(pair) ? low_plane : 0), 0, false};
        const Operand right{column + (right_is_low(pair) ? low_plane : 0), 0, false};
        multiply_stored<kForm>(tile.again(), left, right, sums);
      }
    }
    if (needs_totals(sample, planes)) {
      const bool last = first + columns_of_round(workspace, sample, planes) >= feature_columns(sample);
      put_aside<kForm>(workspace, first == 0, last, sums);
    }
  }
}

}  // namespace gcp_kernels
