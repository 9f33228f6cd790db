// Means, weights and sums of squares of one sample's channels.
#pragma once

#include "device/features.cuh"
#include "device/reduce.cuh"

namespace gcp_kernels {

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

// Of some of a channel's elements: how many they are, their sum, and the sum of squares of their deviations from their
// own mean, times a weight, which no large mean and no outlier spoils.
struct Moments {
  float count = 0.0f, total = 0.0f, squares = 0.0f;
};

// By how much the squares of two groups together are more than those of each: the squares of their means' deviations
// (T. F. Chan, G. H. Golub, R. J. LeVeque, "Algorithms for computing the sample variance", The American Statistician
// 37, 1983).
__device__ inline float squares_between(const Moments& one, const Moments& other, float weight) {
  const float counts = one.count * other.count;
  if (counts == 0.0f) return 0.0f;
  const float difference = (one.count * other.total - other.count * one.total) * weight;
  return difference / (counts * (one.count + other.count)) * difference;
}

// Over the four lanes that share a channel.
__device__ inline Moments moments_of_octets(Moments moments, float weight) {
#pragma unroll
  for (int mask = kLaneRows; mask < kWarpSize; mask *= 2) {
    Moments other;
    other.count = shuffle_xor(moments.count, mask);
    other.total = shuffle_xor(moments.total, mask);
    other.squares = shuffle_xor(moments.squares, mask);
    moments.squares += other.squares + squares_between(moments, other, weight);
    moments.total += other.total;
    moments.count += other.count;
  }
  return moments;
}

// Of x - first, the squares weighted, for those octets of one channel that are this lane's, in one pass over them.
struct LaneMoments {
  float first, weight;
  CompensatedSum total{}, squares{};
  float count = 0.0f;

  __device__ Moments moments() const { return {count, total.total, squares.total}; }

  // Joins octets that were loaded at once, kLanePositions apart, to those before.
  template <int kOctets>
  __device__ void add(const Row& row, const OctetWords (&words)[kOctets], int position) {
    const Moments before{count, total.total, 0.0f};
    float values[kOctets][kOctet] = {};
    Moments now;
#pragma unroll
    for (int n = 0; n < kOctets; ++n) {
      const int there = row.there(position + n * kLanePositions);
      if (there == 0) continue;
      const Octet octet = row.octet(words[n]);
      float sum = 0.0f;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) {
        values[n][e] = octet.value[e] - first;
        if (e < there) sum += values[n][e];
      }
      total.add(sum);
      now.total += sum;
      now.count += static_cast<float>(there);
    }
    if (now.count == 0.0f) return;
    const float mean = now.total / now.count;
#pragma unroll
    for (int n = 0; n < kOctets; ++n) {
      const int there = row.there(position + n * kLanePositions);
      if (there == 0) continue;
      float sum = 0.0f;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) {
        const float deviation = (values[n][e] - mean) * weight;
        if (e < there) sum += deviation * deviation;
      }
      now.squares += sum;
    }
    squares.add(now.squares + squares_between(before, now, weight));
    count += now.count;
  }
};

// Fills the first position and the centre of every channel from the features. For each channel one lane calls
// visit(channel, the sum of squares of weight (x - mu)), where weight = weight_of(channel).
template <typename WeightOf, typename Visit>
__device__ inline void find_statistics(const Workspace& workspace, const Sample& sample, WeightOf weight_of,
                                       Visit visit) {
  const int lane = lane_of_thread();
#pragma unroll 1
  for (int group = warp_of_thread(); group < workspace.layout.blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane % kLaneRows;
    const bool inside = channel < sample.features.channels;
    const Row row = sample.row_of(channel);
    const float first = row.first();
    const float weight = inside ? weight_of(channel) : 0.0f;
    LaneMoments lanes{first, weight};
    sample.for_octets<kOctetsAtOnce>(
        row, 0, sample.features.positions,
        [&](const OctetWords(&words)[kOctetsAtOnce], int position) { lanes.add(row, words, position); });
    const Moments moments = moments_of_octets(lanes.moments(), weight);
    if (lane < kLaneRows) {
      set_channel_value(workspace, kFirst, channel, first);
      set_channel_value(workspace, kCentre, channel, moments.total / static_cast<float>(sample.features.positions));
      visit(channel, moments.squares);
    }
  }
}

// The same from the centres of all samples that the forward pass left.
__device__ inline void restore_means(const Workspace& workspace, const Sample& sample, const float* centres) {
  const int channels = sample.features.channels;
  for (int channel = threadIdx.x; channel < workspace.layout.blocks * kBlockSide; channel += blockDim.x) {
    const bool inside = channel < channels;
    set_channel_value(workspace, kFirst, channel, inside ? sample.element(channel, 0) : 0.0f);
    set_channel_value(workspace, kCentre, channel, inside ? centres[sample.number() * channels + channel] : 0.0f);
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
  const Row row = sample.row_of(channel);
  sample.for_each_octet<kOctetsAtOnce>(row, 0, sample.features.positions, [&](const Octet& octet, int, int there) {
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

// Leaves the centres of a sample to the backward pass.
__device__ inline void store_centres(const Workspace& workspace, int channels, float* centre) {
  for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
    centre[channel] = channel_value(workspace, kCentre, channel);
  }
}

}  // namespace gcp_kernels
