// Covariance pooling without a root, diag(s) Sigma diag(s) of (B, C, M) features, in one launch: one CTA for each
// sample.
//
// Nothing is normalised here, so each channel is divided by a power of two near its root mean square before it is
// rounded to halves, which is exact and undone exactly: every element of the covariance is as accurate as its own two
// channels allow.
#pragma once

#include "covariance_pool/arguments.h"
#include "covariance_pool/matrices.h"
#include "covariance_pool/scale.cuh"
#include "device/feature_products.cuh"
#include "device/pooled.cuh"
#include "device/statistics.cuh"

namespace gcp_kernels {

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
    covariance_pool_forward_kernel(const CovariancePoolForwardArguments arguments) {
  constexpr Floats<2> kTotals = covariance_totals();
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    find_means(workspace, sample);
    set_weights(workspace, sample, [&](int channel) { return scale_of(arguments.scale, sample.number(), channel); });
    block_barrier();  // the channel arrays are written
    store_centres(workspace, channels, arguments.centre + sample.number() * channels);
    normalise_channels(workspace, sample);
    multiply_features<kForm>(workspace, sample, arguments.planes, kTotals, sums);
    const Lifted<-2> factor = unlift() * unlift() / static_cast<float>(arguments.x.positions);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const LiftedBlock<2> total = load_floats<kForm>(workspace, kTotals, packed_block(i, j));
      LiftedBlock<0> covariance;
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        covariance.value[e] =
            total.value[e] * (factor.value * channel_value(workspace, kFirstExtra, element_row(i, e)) *
                              channel_value(workspace, kFirstExtra, element_column(j, e)));
      }
      store_result(arguments.pooled, sample.number(), i, j, covariance);
    });
  } while (sample.advance<kForm>(arguments.batch));
}

}  // namespace gcp_kernels
