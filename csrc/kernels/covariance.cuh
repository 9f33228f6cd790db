// Covariance pooling without a root, diag(s) Sigma diag(s) of (B, C, M) features, forward and backward: one launch
// each, one CTA for each sample.
//
// Nothing is normalised here, so each channel is divided by a power of two near its root mean square before it is
// rounded to halves, which is exact and undone exactly: every element of the covariance is as accurate as its own two
// channels allow.
#pragma once

#include "feature_gradient.cuh"
#include "isqrt_backward.cuh"

namespace gcp_kernels {

__device__ inline float scale_of(const ChannelScale& scale, std::int64_t sample, int channel) {
  if (scale.data == nullptr) return 1.0f;
  const std::int64_t offset = sample * scale.batch_stride + channel * scale.channel_stride;
  if (scale.element == Element::kFloat64) return static_cast<float>(static_cast<const double*>(scale.data)[offset]);
  return load_element(scale.element, scale.data, offset);
}

// Weights each channel by a power of two that brings the root mean square of s (x - mu) to 1/8 .. 1/4, so that, lifted,
// even the one outlier of 2^20 positions is in the range of halves. kFirstExtra keeps the inverse of the power.
__device__ inline void normalise_channels(const Workspace& workspace, const Sample& sample) {
  const int lane = lane_of_thread();
  for (int group = warp_of_thread(); group < workspace.layout.blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane % kLaneRows;
    const float squares = squares_of_channel(workspace, sample, channel);
    const int exponent = as_word(sqrtf(squares / static_cast<float>(sample.features.positions))) >> 23;
    // Infinity and NaN will show by themselves.
    const int kept = exponent == 255 ? 127 : min(max(exponent, 4), 250);
    if (lane < kLaneRows) set_channel_value(workspace, kFirstExtra, channel, as_float((kept + 3) << 23));
  }
  block_barrier();  // the weights have been read
  for (int channel = threadIdx.x; channel < workspace.layout.blocks * kBlockSide; channel += blockDim.x) {
    const float inverse = 1.0f / channel_value(workspace, kFirstExtra, channel);
    set_channel_value(workspace, kWeight, channel, channel_value(workspace, kWeight, channel) * inverse);
  }
}

template <Form kForm>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasOf<kForm>)
    covariance_forward_kernel(const CovarianceArguments arguments) {
  constexpr int kTotals = 1;  // behind the place of the features
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    find_means(workspace, sample);
    set_weights(workspace, sample, [&](int channel) { return scale_of(arguments.scale, sample.number(), channel); });
    block_barrier();  // the channel arrays are written
    store_offsets(workspace, channels, arguments.offset + sample.number() * channels);
    normalise_channels(workspace, sample);
    multiply_features<kForm>(workspace, sample, arguments.planes, kTotals, sums);
    const float factor = kUnlift * kUnlift / static_cast<float>(arguments.x.positions);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      BlockSum covariance = load_floats<kForm>(workspace, kTotals, packed_index(i, j));
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        covariance.value[e] *= factor * channel_value(workspace, kFirstExtra, element_row(i, e)) *
                               channel_value(workspace, kFirstExtra, element_column(j, e));
      }
      store_result(arguments.pooled, sample.number(), i, j, covariance);
    });
  } while (sample.advance<kForm>(arguments.batch));
}

// H = (G + G^T) diag(s) (x - mu) / M;  grad_x = diag(s) H,  grad_s = sum over the positions of (x - mu) H.
template <Form kForm>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasOf<kForm>)
    covariance_backward_kernel(const CovarianceBackwardArguments arguments) {
  constexpr int kDerivative = 1;  // its planes follow the place of the features
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  const bool scaled = arguments.scale.data != nullptr;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    restore_means(workspace, sample, arguments.offset);
    set_weights(workspace, sample, [&](int channel) { return scale_of(arguments.scale, sample.number(), channel); });
    block_barrier();  // the channel arrays are written
    const float total = sum_of_squares(workspace, sample);
    const float unit = inverse_root(total);
    set_weights(workspace, sample,
                [&](int channel) { return scale_of(arguments.scale, sample.number(), channel) * unit; });
    for (int channel = threadIdx.x; channel < workspace.layout.blocks * kBlockSide; channel += blockDim.x) {
      set_channel_value(workspace, kFirstExtra, channel, 0.0f);
      set_channel_value(workspace, kSecondExtra, channel, 0.0f);
    }

    const float largest = load_gradient<kForm>(workspace, arguments.grad, sample.number(), kDerivative);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const BlockSum twice = load_floats<kForm>(workspace, kDerivative, packed_index(i, j));
      store_planes<kForm, 2>(workspace, kDerivative, packed_index(i, j), direction_of(twice, largest, kLift));
    });

    const float factor = largest * sqrtf(total) / static_cast<float>(arguments.x.positions) * kUnlift * kUnlift;
    multiply_derivative<kForm>(
        workspace, sample, kDerivative, [&](const BlockSum& product, const BlockSum&, int i, int j, int column) {
          BlockSum gradient = times(factor, product);
          if (scaled) {
#pragma unroll
            for (int half = 0; half < 2; ++half) {
              const int channel = element_row(i, 2 * half);
              const bool inside = channel < channels;
              const float s = inside ? scale_of(arguments.scale, sample.number(), channel) : 0.0f;
              float for_scale = 0.0f;
#pragma unroll
              for (int e = 2 * half; e < 8; e += e % 2 == 0 ? 1 : 3) {
                const int position = element_column(j, e);
                if (inside && position < arguments.x.positions) {
                  for_scale += gradient.value[e] * centred(workspace, channel, sample.element(channel, position));
                }
                gradient.value[e] *= s;
              }
              // Four lanes share a row; the first of them adds it up.
              for_scale += shuffle_xor(for_scale, 1);
              for_scale += shuffle_xor(for_scale, 2);
              if (lane_of_thread() % 4 != 0) continue;
              const ChannelArray sum = column == 0 ? kFirstExtra : kSecondExtra;
              set_channel_value(workspace, sum, channel, channel_value(workspace, sum, channel) + for_scale);
            }
          }
          store_gradient(arguments.grad_x, sample, i, j, gradient);
        });
    block_barrier();  // the sums are complete
    for (int channel = threadIdx.x; scaled && channel < channels; channel += blockDim.x) {
      const float sum =
          channel_value(workspace, kFirstExtra, channel) + channel_value(workspace, kSecondExtra, channel);
      const std::int64_t at = sample.number() * channels + channel;
      if (arguments.scale.element == Element::kFloat64) {
        static_cast<double*>(arguments.grad_scale)[at] = sum;
      } else {
        with_element_pointer(arguments.scale.element, arguments.grad_scale, [&](auto* data) { assign(data[at], sum); });
      }
    }
  } while (sample.advance<kForm>(arguments.batch));
}

}  // namespace gcp_kernels
