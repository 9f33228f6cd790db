// One sample's features, (C, M) of any strides: statistics, and centred features as blocks of halves in shared memory.
//
// Threads take octets, eight positions of one channel: the eight lanes that differ in lane % 8 take neighbouring
// channels, so that what they store, a tile, is contiguous in shared memory; lane / 8 is the octet. How octets are
// loaded is in octets.cuh.
//
// A constant channel must become exactly zero, and a mean far above the deviations must cost no accuracy, so the mean
// is kept as its difference from the first position, the centre; the first position is subtracted before it.
#pragma once

#include "device/arguments.h"
#include "device/octets.cuh"
#include "device/planes.cuh"

namespace gcp_kernels {

// Arrays of a number for each channel, in the workspace; channels of the padding hold zeros.
enum ChannelArray : int { kFirst, kCentre, kWeight, kFirstExtra, kSecondExtra };
static_assert(kSecondExtra + 1 == kChannelArrays);

constexpr int kLaneRows = 8;                          // channels of a warp's octets
constexpr int kLaneOctets = kWarpSize / kLaneRows;    // octets of each
constexpr int kLanePositions = kLaneOctets * kOctet;  // two blocks of positions
// Octets that a lane loads at once; while the sums of a tile are in registers, fewer.
constexpr int kOctetsAtOnce = 3;
constexpr int kOctetsBesideSums = 2;

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
  const Workspace& workspace;

  // The first one; there is a barrier before the second.
  __device__ Sample(const Features& features_, const Workspace& workspace_)
      : features(features_), workspace(workspace_) {
    if (threadIdx.x == 0) store_shared(workspace.round(), 0);
    block_barrier();
  }

  __device__ std::int64_t number() const {
    return std::int64_t{load_shared(workspace.round())} * gridDim.x + recomputed(static_cast<int>(blockIdx.x));
  }

  // To the next one, if there is one, when everyone is done. Without slabs there is a CTA for each sample.
  template <Form kForm, bool kSlabs = kStreams<kForm>>
  __device__ bool advance(std::int64_t batch) {
    if (!kSlabs) return false;
    const std::uint32_t next = load_shared(workspace.round()) + 1;
    block_barrier();  // everyone has read what may now be overwritten
    if (threadIdx.x == 0) store_shared(workspace.round(), next);
    block_barrier();  // the round is written
    return number() < batch;
  }

  __device__ float element(int channel, int position) const {
    const std::int64_t at =
        number() * features.batch_stride + channel * features.channel_stride + position * features.position_stride;
    return load_element(features.element, features.data, at);
  }

  __device__ Row row_of(int channel) const {
    const std::int64_t bytes = number() * features.batch_stride * recomputed(size_of(features.element));
    return {features, static_cast<const char*>(features.data) + bytes, channel};
  }

  // Visits the octets of one row from `begin` to `end` that are this lane's, some at once: visit(their words, the
  // position of the first), the others being kLanePositions apart.
  template <int kAtOnce, typename Visit>
  __device__ static void for_octets(const Row& row, int begin, int end, Visit visit) {
#pragma unroll 1
    for (int first = begin + lane_of_thread() / kLaneRows * kOctet; first < end; first += kAtOnce * kLanePositions) {
      OctetWords words[kAtOnce];
      row.load(words, first, kLanePositions);
      visit(words, first);
    }
  }

  // The same, one after the other: visit(octet, position, how many of its elements are features).
  template <int kAtOnce, typename Visit>
  __device__ static void for_each_octet(const Row& row, int begin, int end, Visit visit) {
    for_octets<kAtOnce>(row, begin, end, [&](const OctetWords(&words)[kAtOnce], int first) {
#pragma unroll
      for (int n = 0; n < kAtOnce; ++n) {
        const int position = first + n * kLanePositions;
        if (position < end) visit(row.octet(words[n]), position, row.there(position));
      }
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

  __device__ WeightedChannel(float first_, float centre_, float weight_)
      : first(first_), centre(centre_), weight(weight_) {}

  __device__ Octet of(const Octet& octet, int there) const {
    Octet weighted;
#pragma unroll
    for (int e = 0; e < kOctet; ++e) weighted.value[e] = e < there ? (octet.value[e] - first - centre) * weight : 0.0f;
    return weighted;
  }
};

// An octet as a row of a tile of halves, and what rounding takes away.
struct SplitRow {
  TileRow high, low;
};

__device__ inline SplitRow split_octet(const Octet& octet) {
  SplitRow split;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const SplitPair pair = split_pair(octet.value[2 * w], octet.value[2 * w + 1]);
    split.high.word[w] = pair.high;
    split.low.word[w] = pair.low;
  }
  return split;
}

// The second plane is `low_plane` bytes behind the first.
__device__ inline void store_split(SharedAddress row, int low_plane, int planes, const SplitRow& split) {
  store_shared(row, split.high);
  if (planes == 2) store_shared(row + low_plane, split.low);
}

// Stores `columns` block columns of weight (x - mu), lifted, from `position` on at `start` in shared memory: block
// (i, k) is number k * blocks + i. A second plane follows the first.
template <int kAtOnce>
__device__ inline void stage_features(const Workspace& workspace, const Sample& sample, SharedAddress start,
                                      int position, int columns, int planes) {
  const int blocks = workspace.layout.blocks;
  const int low_plane = columns * blocks * kBlockBytes;
#pragma unroll 1
  for (int group = warp_of_thread(); group < blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane_of_thread() % kLaneRows;
    WeightedChannel weighted(workspace, channel);
    weighted.weight *= lift().value;
    const SharedAddress rows =
        start + channel / kBlockSide * kBlockBytes + channel / kLaneRows % 2 * kTileBytes + channel % kLaneRows * 16;
    sample.for_each_octet<kAtOnce>(
        sample.row_of(channel), position, position + columns * kBlockSide, [&](const Octet& octet, int at, int there) {
          const int number = (at - position) / kOctet;
          const SharedAddress row = rows + number / 2 * blocks * kBlockBytes + number % 2 * 2 * kTileBytes;
          store_split(row, low_plane, planes, split_octet(weighted.of(octet, there)));
        });
  }
}

}  // namespace gcp_kernels
