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
// are neighbours, and aligned in every row, so that all lanes take the same way.
__device__ inline void store_gradient(const FeatureGradient& gradient, const Sample& sample, int i, int j,
                                      const LiftedBlock<0>& value) {
  const Element element = sample.features.element;
  const int row = element_row(i, 0), position = element_column(j, 0);
  const int rows = sample.features.channels - row, positions = sample.features.positions - position;
  const std::int64_t start =
      sample.number() * gradient.batch_stride + row * gradient.channel_stride + position * gradient.position_stride;
  const std::uintptr_t address = reinterpret_cast<std::uintptr_t>(gradient.data) / size_of(element);
  const std::uintptr_t strides = gradient.batch_stride | gradient.channel_stride;
  if (gradient.position_stride == 1 && (address | strides) % 2 == 0) {
#pragma unroll
    for (int e = 0; e < 8; e += 2) {
      const int r = e / 2 % 2 * 8, c = e / 4 * 8;
      const std::int64_t at = start + r * gradient.channel_stride + c;
      if (r >= rows || c >= positions) continue;
      if (c + 1 < positions) {
        store_element_pair(element, gradient.data, at, value.value[e], value.value[e + 1]);
      } else {
        store_element(element, gradient.data, at, value.value[e]);
      }
    }
    return;
  }
  const auto store_all = [&](auto* data, const auto& bits) {
    auto* const first = data + start;
    auto* const second = first + 8 * gradient.channel_stride;
    const auto store = [&](std::int64_t stride) {
      for_each_element([&](int e, int r, int c) {
        if (r < rows && c < positions) (r == 0 ? first : second)[c * stride] = bits[e];
      });
    };
    gradient.position_stride == 1 ? store(1) : store(gradient.position_stride);
  };
  if (element == Element::kFloat32) return store_all(static_cast<float*>(gradient.data), value.value);
  store_all(static_cast<std::uint16_t*>(gradient.data), in_halves(element, value).bits);
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

// Where block (i, k) of the two planes of a symmetric matrix is, or the block that it mirrors, for one k after the
// other.
template <Form kForm>
struct RunningRow {
  int row;
  SharedAddress high, low;

  __device__ RunningRow(const Stream<kForm>& stream, int i)
      : row(i), high(stream.left_block(i)), low(stream.right_block(i)) {}

  __device__ Fragment load(SharedAddress block, int k) const {
    const LaneOffset lane;
    return k < row ? load_block_transposed<Hand::kLeft>(block, lane) : load_block<Hand::kLeft>(block, lane);
  }

  __device__ void advance(const Stream<kForm>& stream, int k) {
    const SharedAddress step = (k < row ? 1 : k + 1) * kBlockBytes;
    const SharedAddress slot_step = kStreams<kForm> ? stream.slot_step(k) : 0;
    high += stream.left_streamed() ? slot_step : step;
    low += stream.right_streamed() ? slot_step : step;
  }
};

// For L = `derivative`, beside which z is staged. Calls visit(block of L z, block of z, block row, block of
// positions, column of tiles) once for every block of the features; a column of tiles is one warp's, in each row, for
// the features staged at one time.
template <Form kForm, typename Visit>
__device__ inline void multiply_derivative(const Workspace& workspace, const Sample& sample, Split derivative,
                                           Visit visit) {
  constexpr int kRows = kGradientRows<kForm>, kSums = kRows * kGradientColumns;
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
      LiftedBlock<2> sums[kSums] = {}, small[kSums] = {};
      Stream<kForm> stream(workspace, derivative.high, next(derivative.high));
      // Without a stream there is no barrier that a warp without a tile would have to reach.
      if (stream.count() == 0 && round * warps + warp_of_thread() >= tiles) continue;
      stream.start();
      const auto row_of = [&](int r) { return RunningRow<kForm>(stream, min(row + r, blocks - 1)); };
      RunningRow<kForm> rows[] = {row_of(0), row_of(kRows - 1)};
      SharedAddress z[kGradientColumns];
#pragma unroll
      for (int c = 0; c < kGradientColumns; ++c) {
        z[c] = start + min(column + c, columns - 1) * blocks * kBlockBytes + LaneOffset().in_order;
      }
#pragma unroll 1
      for (int k = 0; k < recomputed(blocks); ++k) {
        stream.advance(k);
        Fragment high[kRows], z_high[kGradientColumns];
#pragma unroll
        for (int c = 0; c < kGradientColumns; ++c) z_high[c] = load_matrix_transposed(z[c]);
#pragma unroll
        for (int r = 0; r < kRows; ++r) {
          high[r] = rows[r].load(rows[r].high, k);
          const Fragment low = rows[r].load(rows[r].low, k);
#pragma unroll
          for (int c = 0; c < kGradientColumns; ++c) {
            multiply_add(sums[c * kRows + r], high[r], z_high[c]);
            multiply_add(small[c * kRows + r], low, z_high[c]);
          }
          rows[r].advance(stream, k);
        }
#pragma unroll
        for (int c = 0; c < kGradientColumns; ++c) {
          const Fragment z_low = load_matrix_transposed(z[c] + low_plane);
#pragma unroll
          for (int r = 0; r < kRows; ++r) multiply_add(small[c * kRows + r], high[r], z_low);
          z[c] += kBlockBytes;
        }
      }
      if (round * warps + warp_of_thread() >= tiles) continue;
#pragma unroll
      for (int s = 0; s < kSums; ++s) sums[s] = combine(1.0f, sums[s], 1.0f, small[s]);
      // Of four blocks one visit in the code, and not four; the resident form would spill too much for it.
      [[maybe_unused]] constexpr int kVisits = kForm == Form::kSmall || kForm == Form::kResident ? kSums : 1;
#pragma unroll kVisits
      for (int s = 0; s < kSums; ++s) {
        const int i = row + s % kRows, j = column + s / kRows;
        if (i < blocks && j < columns) {
          const SharedAddress own = start + (j * blocks + i) * kBlockBytes;
          visit(sums[0], staged_elements(own, low_plane), i, first + j, column / kGradientColumns);
        }
        turn(sums);
      }
    }
  }
}

}  // namespace gcp_kernels
