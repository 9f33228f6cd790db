// One sample's features, (C, M) of any strides: statistics, and centred features as blocks of halves in shared memory.
//
// Threads take octets, eight positions of one channel: the eight lanes that differ in lane % 8 take neighbouring
// channels, so that what they store, a tile, is contiguous in shared memory; lane / 8 is the octet. Along a row an
// octet is loaded in words of eight bytes where they are aligned.
//
// A constant channel must become exactly zero, and a mean far above the deviations must cost no accuracy, so the mean
// is kept as its difference from the first position, the centre; the first position is subtracted before it.
#pragma once

#include "device/arguments.h"
#include "device/elements.cuh"
#include "device/planes.cuh"

namespace gcp_kernels {

// Arrays of a number for each channel, in the workspace; channels of the padding hold zeros.
enum ChannelArray : int { kFirst, kCentre, kWeight, kFirstExtra, kSecondExtra };
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
  return value - channel_value(workspace, kFirst, channel) - channel_value(workspace, kCentre, channel);
}

// weight (x - mu) of the octets of one channel; zero beyond the features.
struct WeightedChannel {
  float first, centre, weight;

  __device__ WeightedChannel(const Workspace& workspace, int channel)
      : first(channel_value(workspace, kFirst, channel)),
        centre(channel_value(workspace, kCentre, channel)),
        weight(channel_value(workspace, kWeight, channel)) {}

  __device__ Octet of(const Octet& octet, int there) const {
    Octet weighted;
#pragma unroll
    for (int e = 0; e < kOctet; ++e) weighted.value[e] = e < there ? (octet.value[e] - first - centre) * weight : 0.0f;
    return weighted;
  }
};

// Stores `columns` block columns of weight (x - mu), lifted, from `position` on in kFeaturesPlace: block
// (i, k) is number k * blocks + i. A second plane follows the first.
__device__ inline void stage_features(const Workspace& workspace, const Sample& sample, int position, int columns,
                                      int planes) {
  const int blocks = workspace.layout.blocks;
  const int low_plane = columns * blocks * kBlockBytes;
#pragma unroll 1
  for (int group = warp_of_thread(); group < blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane_of_thread() % kLaneRows;
    WeightedChannel weighted(workspace, channel);
    weighted.weight *= lift().value;
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

}  // namespace gcp_kernels
