// One sample's features, (C, M) of any strides: statistics, and centred features as blocks of halves in shared memory.
//
// Threads take octets, eight positions of one channel: the eight lanes that differ in lane % 8 take neighbouring
// channels, so that what they store, a tile, is contiguous in shared memory; lane / 8 is the octet. Along a row an
// octet is loaded in words of eight bytes where they are aligned.
//
// A constant channel must become exactly zero, and a mean far above the deviations must cost no accuracy, so the mean
// is kept as its offset from the first position, which is subtracted first.
#pragma once

#include "elements.cuh"
#include "params.h"
#include "workspace.cuh"

namespace gcp_kernels {

// Arrays of a number for each channel, in the workspace; channels of the padding hold zeros.
enum ChannelArray : int { kShift, kOffset, kWeight, kFirstExtra, kSecondExtra };
static_assert(kSecondExtra + 1 == kChannelArrays);

constexpr int kLaneRows = 8;                          // channels of a warp's octets
constexpr int kLaneOctets = kWarpSize / kLaneRows;    // octets of each
constexpr int kLanePositions = kLaneOctets * kOctet;  // two blocks of positions

__device__ inline float channel_value(const Workspace& workspace, ChannelArray array, int channel) {
  return as_float(load_shared(workspace.channels(array) + channel * 4));
}

__device__ inline void set_channel_value(const Workspace& workspace, ChannelArray array, int channel, float value) {
  store_shared(workspace.channels(array) + channel * 4, as_word(value));
}

// The sample that this CTA is at: its own number, and on, by the number of CTAs. How often that was is kept in shared
// memory, and what depends on it is computed when it is asked for: beside the sums of a tile every register counts.
struct Sample {
  const Features& features;
  SharedAddress round;

  // The first one; there is a barrier before the second.
  __device__ Sample(const Features& features_, const Workspace& workspace)
      : features(features_), round(workspace.round()) {
    if (threadIdx.x == 0) store_shared(round, 0);
    block_barrier();
  }

  __device__ std::int64_t number() const { return std::int64_t{load_shared(round)} * gridDim.x + blockIdx.x; }

  // To the next one, if there is one, when everyone is done. Without slabs there is a CTA for each sample.
  template <Form kForm>
  __device__ bool advance(std::int64_t batch) {
    if (!kStreams<kForm>) return false;
    const std::uint32_t next = load_shared(round) + 1;
    block_barrier();  // everyone has read what may now be overwritten
    if (threadIdx.x == 0) store_shared(round, next);
    block_barrier();  // the round is written
    return number() < batch;
  }

  __device__ float element(int channel, int position) const {
    const std::int64_t at =
        number() * features.batch_stride + channel * features.channel_stride + position * features.position_stride;
    return load_element(features.element, features.data, at);
  }

  // Visits the octets of one channel from `begin` to `end` that are this lane's: visit(octet, position, how many of its
  // elements are features), the others being zero.
  template <typename Visit>
  __device__ void for_each_octet(int channel, int begin, int end, Visit visit) const {
    const int first = begin + lane_of_thread() / kLaneRows * kOctet;
    if (channel >= features.channels) {
      for (int position = first; position < end; position += kLanePositions) visit(Octet{}, position, 0);
      return;
    }
    const std::int64_t row = number() * features.batch_stride + channel * features.channel_stride;
    with_element_pointer(features.element, features.data, [&](const auto* data) {
      gcp_kernels::for_each_octet(data + row, features.position_stride, features.positions, first, kLanePositions, end,
                                  visit);
    });
  }
};

// x - mu.
__device__ inline float centred(const Workspace& workspace, int channel, float value) {
  return value - channel_value(workspace, kShift, channel) - channel_value(workspace, kOffset, channel);
}

// weight (x - mu) of the octets of one channel; zero beyond the features.
struct WeightedChannel {
  float shift, offset, weight;

  __device__ WeightedChannel(const Workspace& workspace, int channel)
      : shift(channel_value(workspace, kShift, channel)),
        offset(channel_value(workspace, kOffset, channel)),
        weight(channel_value(workspace, kWeight, channel)) {}

  __device__ Octet of(const Octet& octet, int there) const {
    Octet weighted;
#pragma unroll
    for (int e = 0; e < kOctet; ++e) weighted.value[e] = e < there ? (octet.value[e] - shift - offset) * weight : 0.0f;
    return weighted;
  }
};

// 1 / sqrt(square), for scaling by it: 0 where the square is 0, NaN where it is infinite.
__device__ inline float inverse_root(float square) {
  if (square == 0.0f) return 0.0f;
  return square - square == 0.0f ? 1.0f / sqrtf(square) : square - square;
}

// A sum that keeps what each addition rounds away. Rectified features repeat one value over and over, whose rounding
// errors all have the same sign: over the positions of a video they would add up to 1e-4.
struct CompensatedSum {
  float total = 0.0f;
  float lost = 0.0f;

  __device__ void add(float value) {
    const float corrected = value - lost;
    const float next = total + corrected;
    lost = (next - total) - corrected;
    total = next;
  }
};

// The sum over the four lanes that share a channel.
__device__ inline float sum_of_octets(float value) {
#pragma unroll
  for (int mask = kLaneRows; mask < kWarpSize; mask *= 2) value += shuffle_xor(value, mask);
  return value;
}

// Fills shift and offset of every channel from the features.
__device__ inline void find_means(const Workspace& workspace, const Sample& sample) {
  const int lane = lane_of_thread();
#pragma unroll 1
  for (int group = warp_of_thread(); group < workspace.layout.blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane % kLaneRows;
    const float shift = channel < sample.features.channels ? sample.element(channel, 0) : 0.0f;
    CompensatedSum sum;
    sample.for_each_octet(channel, 0, sample.features.positions, [&](const Octet& octet, int, int there) {
      float total = 0.0f;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) total += e < there ? octet.value[e] - shift : 0.0f;
      sum.add(total);
    });
    const float offset = sum_of_octets(sum.total) / static_cast<float>(sample.features.positions);
    if (lane < kLaneRows) {
      set_channel_value(workspace, kShift, channel, shift);
      set_channel_value(workspace, kOffset, channel, offset);
    }
  }
}

// The same from the offsets of all samples that the forward pass left.
__device__ inline void restore_means(const Workspace& workspace, const Sample& sample, const float* offsets) {
  const int channels = sample.features.channels;
  for (int channel = threadIdx.x; channel < workspace.layout.blocks * kBlockSide; channel += blockDim.x) {
    const bool inside = channel < channels;
    set_channel_value(workspace, kShift, channel, inside ? sample.element(channel, 0) : 0.0f);
    set_channel_value(workspace, kOffset, channel, inside ? offsets[sample.number() * channels + channel] : 0.0f);
  }
}

// Fills the weight of every channel; those of the padding get zero.
template <typename WeightOf>
__device__ inline void set_weights(const Workspace& workspace, const Sample& sample, WeightOf weight_of) {
  for (int channel = threadIdx.x; channel < workspace.layout.blocks * kBlockSide; channel += blockDim.x) {
    const bool inside = channel < sample.features.channels;
    set_channel_value(workspace, kWeight, channel, inside ? weight_of(channel) : 0.0f);
  }
}

// The sum of squares of weight (x - mu) over the positions of one channel, for each of the lanes that share it.
__device__ inline float squares_of_channel(const Workspace& workspace, const Sample& sample, int channel) {
  const WeightedChannel weighted(workspace, channel);
  CompensatedSum sum;
  sample.for_each_octet(channel, 0, sample.features.positions, [&](const Octet& octet, int, int there) {
    const Octet deviations = weighted.of(octet, there);
    float squares = 0.0f;
#pragma unroll
    for (int e = 0; e < kOctet; ++e) squares += deviations.value[e] * deviations.value[e];
    sum.add(squares);
  });
  return sum_of_octets(sum.total);
}

// The same over all channels.
__device__ inline float sum_of_squares(const Workspace& workspace, const Sample& sample) {
  const int lane = lane_of_thread();
  float total = 0.0f;
  for (int group = warp_of_thread(); group < workspace.layout.blocks * 2; group += blockDim.x / kWarpSize) {
    const float squares = squares_of_channel(workspace, sample, group * kLaneRows + lane % kLaneRows);
    if (lane < kLaneRows) total += squares;
  }
  return block_sum(workspace, total);
}

// Stores `columns` block columns of weight (x - mu), lifted, from `position` on in the place of the first matrix: block
// (i, k) is number k * blocks + i. A second plane follows the first.
__device__ inline void stage_features(const Workspace& workspace, const Sample& sample, int position, int columns,
                                      int planes) {
  const int blocks = workspace.layout.blocks;
  const int low_plane = columns * blocks * kBlockBytes;
#pragma unroll 1
  for (int group = warp_of_thread(); group < blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane_of_thread() % kLaneRows;
    WeightedChannel weighted(workspace, channel);
    weighted.weight *= kLift;
    const SharedAddress rows = workspace.start() + channel / kBlockSide * kBlockBytes +
                               channel / kLaneRows % 2 * kTileBytes + channel % kLaneRows * 16;
    sample.for_each_octet(
        channel, position, position + columns * kBlockSide, [&](const Octet& octet, int at, int there) {
          const Octet z = weighted.of(octet, there);
          TileRow high, low;
#pragma unroll
          for (int w = 0; w < 4; ++w) {
            const float a = z.value[2 * w], b = z.value[2 * w + 1];
            high.word[w] = pack_halves(a, b);
            low.word[w] = pack_halves(a - first_half(high.word[w]), b - second_half(high.word[w]));
          }
          const int number = (at - position) / kOctet;
          const SharedAddress row = rows + number / 2 * blocks * kBlockBytes + number % 2 * 2 * kTileBytes;
          store_shared(row, high);
          if (planes == 2) store_shared(row + low_plane, low);
        });
  }
}

// Tensor cores cut off what they add instead of rounding it, in the least accurate ones two times for each block column
// by up to 2^-23 of the sum (tests/cuda_emulation/tensor_cores.h), which over the positions of a video would add up to
// 1e-4: they sum no more than so many, and totals of these are rounded. It is as much as there is room for.
constexpr int kMostSummedColumns = 8;

// Adds this warp's sums to float32 totals in the plane `totals` and the next, or begins them.
template <Form kForm>
__device__ inline void add_to_totals(const Workspace& workspace, int totals, bool begin, TileSums<kForm>& sums) {
  for_each_block<kForm>(workspace, sums, [&](BlockSum& sum, int i, int j) {
    const int block = packed_index(i, j);
    if (!begin) sum = combine(1.0f, sum, 1.0f, load_floats<kForm>(workspace, totals, block));
    store_floats<kForm>(workspace, totals, block, sum);
  });
}

// Leaves the sum of z z^T, lifted twice, for z = weight (x - mu) split into `planes`, in float32 in the plane `totals`
// and the next. The features pass through the place of the first matrix.
template <Form kForm>
__device__ inline void multiply_features(const Workspace& workspace, const Sample& sample, int planes, int totals,
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
    // Of two planes: low high, high low, and high high last, the largest.
    for (int pair = planes == 2 ? 0 : 2; pair < 3; ++pair) {
      for (int k = 0; k < columns; ++k) {
        const SharedAddress column = workspace.start() + k * blocks * kBlockBytes;
        const Operand left{column + (pair == 0 ? low_plane : 0), 0, false};
        const Operand right{column + (pair == 1 ? low_plane : 0), 0, false};
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
