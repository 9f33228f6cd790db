// The last step of both backward passes: L z, for a symmetric matrix L and the centred features z of one sample.
//
// The product may cancel (rank-one covariances), so L and z are split into a high and a low plane in every precision,
// and three products of planes are summed.
#pragma once

#include "device/features.cuh"
#include "device/pairs.cuh"
#include "device/pooled.cuh"
#include "device/stream.cuh"

namespace gcp_kernels {

constexpr int kGradientSide = 2;  // a warp's tile is two block rows by two blocks of positions

// Stores value[e] as the gradient of x at (element_row(i, e), element_column(j, e)).
__device__ inline void store_gradient(const FeatureGradient& gradient, const Sample& sample, int i, int j,
                                      const LiftedBlock<0>& value) {
  with_element_pointer(sample.features.element, gradient.data, [&](auto* data) {
    auto* result = data + sample.number() * gradient.batch_stride;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int channel = element_row(i, e), position = element_column(j, e);
      if (channel >= sample.features.channels || position >= sample.features.positions) continue;
      assign(result[channel * gradient.channel_stride + position * gradient.position_stride], value.value[e]);
    }
  });
}

// A lane's share of a block of the staged z.
__device__ inline LiftedBlock<1> staged_elements(SharedAddress high, int low_plane) {
  LiftedBlock<1> elements;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const SharedAddress address = high + w * kTileBytes + lane_of_thread() * 4;
    const std::uint32_t a = load_shared(address), b = load_shared(address + low_plane);
    elements.value[2 * w] = first_half(a) + first_half(b);
    elements.value[2 * w + 1] = second_half(a) + second_half(b);
  }
  return elements;
}

// For L = `derivative`; z passes through kFeaturesPlace. Calls visit(block of L z, block of z, block row, block of
// positions, column of tiles) once for every block of the features; a column of tiles is one warp's, in each row, for
// the features staged at one time.
template <Form kForm, typename Visit>
__device__ inline void multiply_derivative(const Workspace& workspace, const Sample& sample, Split derivative,
                                           Visit visit) {
  const int blocks = workspace.layout.blocks;
  const int warps = blockDim.x / kWarpSize;
  const int all_columns = ceil_divide(sample.features.positions, kBlockSide);
  const int most_columns = workspace.layout.plane_blocks() * workspace.layout.planes / (2 * blocks);
  for (int first = 0; first < all_columns; first += most_columns) {
    const int columns = min(most_columns, all_columns - first);
    const int low_plane = columns * blocks * kBlockBytes;
    block_barrier();  // what was there before is read
    stage_features(workspace, sample, first * kBlockSide, columns, 2);
    block_barrier();  // the features are staged
    const int tile_columns = ceil_divide(columns, kGradientSide);
    const int tiles = ceil_divide(blocks, kGradientSide) * tile_columns;
    // Where L is streamed, every warp must take part in every round.
    for (int round = 0; round * warps < tiles; ++round) {
      const int tile = min(round * warps + warp_of_thread(), tiles - 1);
      const int row = tile / tile_columns * kGradientSide, column = tile % tile_columns * kGradientSide;
      LiftedBlock<2> sums[kGradientSide][kGradientSide] = {};
      for (int pair = first_pair(2); pair < kPairs; ++pair) {
        const Plane plane = left_is_low(pair) ? next(derivative.high) : derivative.high;
        const SharedAddress z = workspace.start() + (right_is_low(pair) ? low_plane : 0);
        const Stream<kForm> stream(workspace, plane, plane);
        // Without a stream there is no barrier that a warp without a tile would have to reach.
        if (stream.count() == 0 && round * warps + warp_of_thread() >= tiles) continue;
        stream.start();
        for (int k = 0; k < blocks; ++k) {
          stream.advance(k);
          const Operand left = stream.left_operand(k);
          const LaneOffset lane;
          Fragment rows[kGradientSide];
#pragma unroll
          for (int r = 0; r < kGradientSide; ++r) {
            rows[r] = load_operand<Hand::kLeft, Side::kCrossing, kForm>(left, min(row + r, blocks - 1), k, lane);
          }
#pragma unroll
          for (int c = 0; c < kGradientSide; ++c) {
            const int block = min(column + c, columns - 1) * blocks + k;
            const Fragment right = load_block_transposed<Hand::kRight>(z + block * kBlockBytes, lane);
#pragma unroll
            for (int r = 0; r < kGradientSide; ++r) multiply_add(sums[r][c], rows[r], right);
          }
        }
      }
      if (round * warps + warp_of_thread() >= tiles) continue;
#pragma unroll
      for (int c = 0; c < kGradientSide; ++c) {
#pragma unroll
        for (int r = 0; r < kGradientSide; ++r) {
          if (row + r >= blocks || column + c >= columns) continue;
          const SharedAddress own = workspace.start() + ((column + c) * blocks + row + r) * kBlockBytes;
          visit(sums[r][c], staged_elements(own, low_plane), row + r, first + column + c, column / kGradientSide);
        }
      }
    }
  }
}

}  // namespace gcp_kernels
