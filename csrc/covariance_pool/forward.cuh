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
#include "device/result_rows.cuh"
#include "device/statistics.cuh"

namespace gcp_kernels {

// The inverse of the power of two that brings the root mean square of a channel of s (x - mu) to 1/8 .. 1/4, so that,
// lifted, even the one outlier of 2^20 positions is in the range of halves. Of a constant channel it is what s allows:
// s over the unit, lifted, is below 2^128, since infinity times zero would be NaN.
__device__ inline float unit_of_channel(float squares, float scale, int positions) {
  const int exponent = as_word(sqrtf(squares / static_cast<float>(positions))) >> 23;
  const int least = max(static_cast<int>(as_word(fabsf(scale)) >> 23) - 124, 4);
  // Infinity and NaN will show by themselves.
  const int kept = exponent == 255 ? 127 : min(max(exponent, least), 250);
  return as_float((kept + 3) << 23);
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
    const auto scale = [&](int channel) { return scale_of(arguments.scale, sample.number(), channel); };
    find_statistics(workspace, sample, scale, [&](int channel, float squares) {
      set_channel_value(workspace, kFirstExtra, channel,
                        unit_of_channel(squares, scale(channel), arguments.x.positions));
    });
    block_barrier();  // the channel arrays are written
    store_centres(workspace, channels, arguments.centre + sample.number() * channels);
    set_weights(workspace, sample,
                [&](int channel) { return scale(channel) * (1.0f / channel_value(workspace, kFirstExtra, channel)); });
    multiply_features<kForm>(workspace, sample, arguments.planes, sums);
    block_barrier();  // the staged features have been read
    for_each_block_in_turn<kForm>(workspace, sums, [&](const LiftedBlock<2>& sum, int i, int j) {
      store_floats<kForm>(workspace, kTotals, packed_block(i, j), sum);
    });
    const Lifted<-2> factor = unlift() * unlift() / static_cast<float>(arguments.x.positions);
    block_barrier();  // the totals are written
    for_each_block_row<kForm>(workspace, Plane{0}, [&](int i, SharedAddress ring) {
      store_result_rows(arguments.pooled, sample.number(), i, i, workspace.layout.blocks, ring, [&](int j) {
        const LiftedBlock<2> total = load_floats<kForm>(workspace, kTotals, packed_block(i, j));
        LiftedBlock<0> covariance;
#pragma unroll
        for (int e = 0; e < 8; ++e) {
          covariance.value[e] =
              total.value[e] * (factor.value * channel_value(workspace, kFirstExtra, element_row(i, e)) *
                                channel_value(workspace, kFirstExtra, element_column(j, e)));
        }
        return covariance;
      });
    });
  } while (sample.advance<kForm>(arguments.batch));
}

}  // namespace gcp_kernels
