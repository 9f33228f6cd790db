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

// Fills the first position and the centre of every channel from the features.
__device__ inline void find_means(const Workspace& workspace, const Sample& sample) {
  const int lane = lane_of_thread();
#pragma unroll 1
  for (int group = warp_of_thread(); group < workspace.layout.blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane % kLaneRows;
    const float first = channel < sample.features.channels ? sample.element(channel, 0) : 0.0f;
    CompensatedSum sum;
    sample.for_each_octet(channel, 0, sample.features.positions, [&](const Octet& octet, int, int there) {
      float total = 0.0f;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) total += e < there ? octet.value[e] - first : 0.0f;
      sum.add(total);
    });
    const float centre = sum_of_octets(sum.total) / static_cast<float>(sample.features.positions);
    if (lane < kLaneRows) {
      set_channel_value(workspace, kFirst, channel, first);
      set_channel_value(workspace, kCentre, channel, centre);
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

// Leaves the centres of a sample to the backward pass.
__device__ inline void store_centres(const Workspace& workspace, int channels, float* centre) {
  for (int channel = threadIdx.x; channel < channels; channel += blockDim.x) {
    centre[channel] = channel_value(workspace, kCentre, channel);
  }
}

}  // namespace gcp_kernels
