// The last step of both backward passes: L z, for a symmetric matrix L and the centred features z of one sample.
//
// The product may cancel (rank-one covariances), so L and z are split into a high and a low plane in every precision,
// and three products of planes are summed, all in one loop, so that each plane is loaded once.
#pragma once

#include "device/features.cuh"
#include "device/pooled.cuh"
#include "device/stream.cuh"

namespace gcp_kernels {

// A warp's tile: block rows, of small matrices fewer, so that there are more tiles, and blocks of positions.
template <Form kForm>
constexpr int kGradientRows = kForm == Form::kSmall ? 1 : 2;
constexpr int kGradientColumns = 2;

// Stores value[e] as the gradient of x at (element_row(i, e), element_column(j, e)): two positions at once where they
// are neighbours, and aligned.
__device__ inline void store_gradient(const FeatureGradient& gradient, const Sample& sample, int i, int j,
                                      const LiftedBlock<0>& value) {
  const Element element = sample.features.element;
  const int positions = sample.features.positions;
  const std::int64_t start = sample.number() * gradient.batch_stride;
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int channel = element_row(i, 2 * half);
    if (channel >= sample.features.channels) continue;
    const std::int64_t row = start + channel * gradient.channel_stride;
    const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(gradient.data) + row * size_of(element);
    const bool in_pairs = gradient.position_stride == 1 && address % (2 * size_of(element)) == 0;
#pragma unroll
    for (int e = 2 * half; e < 8; e += 4) {
      const int position = element_column(j, e);
      if (in_pairs && position + 1 < positions) {
        store_element_pair(element, gradient.data, row + position, value.value[e], value.value[e + 1]);
        continue;
      }
#pragma unroll
      for (int next = 0; next < 2; ++next) {
        if (position + next >= positions) continue;
        store_element(element, gradient.data, row + (position + next) * gradient.position_stride,
                      value.value[e + next]);
      }
    }
  }
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

// For L = `derivative`, beside which z is staged. Calls visit(block of L z, block of z, block row, block of
// positions, column of tiles) once for every block of the features; a column of tiles is one warp's, in each row, for
// the features staged at one time.
template <Form kForm, typename Visit>
__device__ inline void multiply_derivative(const Workspace& workspace, const Sample& sample, Split derivative,
                                           Visit visit) {
  constexpr int kRows = kGradientRows<kForm>;
  const int blocks = workspace.layout.blocks;
  const int warps = blockDim.x / kWarpSize;
  const int all_columns = ceil_divide(sample.features.positions, kBlockSide);
  const int kept = static_cast<int>(derivative.high);
  const Room room = workspace.layout.room_beside(kept, kept + 2);
  const SharedAddress start = workspace.start() + room.begin;
  const int most_columns = room.bytes() / (2 * blocks * kBlockBytes);
  for (int first = 0; first < all_columns; first += most_columns) {
    const int columns = min(most_columns, all_columns - first);
    const int low_plane = columns * blocks * kBlockBytes;
    block_barrier();  // what was there before is read
    stage_features<kOctetsAtOnce>(workspace, sample, start, first * kBlockSide, columns, 2);
    block_barrier();  // the features are staged
    const int tile_columns = ceil_divide(columns, kGradientColumns);
    const int tiles = ceil_divide(blocks, kRows) * tile_columns;
    // Where L is streamed, every warp must take part in every round.
    for (int round = 0; round * warps < tiles; ++round) {
      const int tile = min(round * warps + warp_of_thread(), tiles - 1);
      const int row = tile / tile_columns * kRows, column = tile % tile_columns * kGradientColumns;
      // Those of a low plane on their own: beside the large sums tensor cores would cut off more of them.
      LiftedBlock<2> sums[kRows][kGradientColumns] = {}, small[kRows][kGradientColumns] = {};
      const Stream<kForm> stream(workspace, derivative.high, next(derivative.high));
      // Without a stream there is no barrier that a warp without a tile would have to reach.
      if (stream.count() == 0 && round * warps + warp_of_thread() >= tiles) continue;
      stream.start();
#pragma unroll 1
      for (int k = 0; k < recomputed(blocks); ++k) {
        stream.advance(k);
        const LaneOffset lane;
        Fragment high[kRows], z_high[kGradientColumns];
#pragma unroll
        for (int c = 0; c < kGradientColumns; ++c) {
          const SharedAddress z = start + (min(column + c, columns - 1) * blocks + k) * kBlockBytes;
          z_high[c] = load_block_transposed<Hand::kRight>(z, lane);
        }
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          const int i = min(row + r, blocks - 1);
          high[r] = AnyStrip<Hand::kLeft>(stream.left_operand(k), i, k).template load<Side::kCrossing>(0);
          const Fragment low = AnyStrip<Hand::kLeft>(stream.right_operand(k), i, k).template load<Side::kCrossing>(0);
#pragma unroll
          for (int c = 0; c < kGradientColumns; ++c) {
            multiply_add(sums[r][c], high[r], z_high[c]);
            multiply_add(small[r][c], low, z_high[c]);
          }
        }
#pragma unroll
        for (int c = 0; c < kGradientColumns; ++c) {
          const SharedAddress z = start + (min(column + c, columns - 1) * blocks + k) * kBlockBytes;
          const Fragment z_low = load_block_transposed<Hand::kRight>(z + low_plane, lane);
#pragma unroll
          for (int r = 0; r < kRows; ++r) multiply_add(small[r][c], high[r], z_low);
        }
      }
      if (round * warps + warp_of_thread() >= tiles) continue;
#pragma unroll
      for (int c = 0; c < kGradientColumns; ++c) {
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          if (row + r >= blocks || column + c >= columns) continue;
          const SharedAddress own = start + ((column + c) * blocks + row + r) * kBlockBytes;
          visit(combine(1.0f, sums[r][c], 1.0f, small[r][c]), staged_elements(own, low_plane), row + r,
                first + column + c, column / kGradientColumns);
        }
      }
    }
  }
}

}  // namespace gcp_kernels
