// The gradient of covariance pooling in one launch, one CTA for each sample.
#pragma once

#include "covariance_pool/arguments.h"
#include "covariance_pool/matrices.h"
#include "covariance_pool/scale.cuh"
#include "device/direction.cuh"
#include "device/feature_gradient.cuh"
#include "device/statistics.cuh"

namespace gcp_kernels {

// H = (G + G^T) diag(s) (x - mu) / M;  grad_x = diag(s) H,  grad_s = sum over the positions of (x - mu) H.
template <Form kForm>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasBackward<kForm>)
    covariance_pool_backward_kernel(const CovariancePoolBackwardArguments arguments) {
  constexpr Floats<0> kGradient = covariance_gradient();
  constexpr Split kDerivative = covariance_derivative();
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  const bool scaled = arguments.scale.data != nullptr;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    restore_means(workspace, sample, arguments.centre);
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

    const float largest = load_gradient<kForm>(workspace, arguments.grad, sample.number(), kGradient);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const LiftedBlock<0> twice = load_floats<kForm>(workspace, kGradient, packed_block(i, j));
      store_split<kForm>(workspace, kDerivative, packed_block(i, j), direction_of(twice, largest, lift()));
    });

    const Lifted<-2> factor = largest * sqrtf(total) / static_cast<float>(arguments.x.positions) * unlift() * unlift();
    multiply_derivative<kForm>(
        workspace, sample, kDerivative,
        [&](const LiftedBlock<2>& product, const LiftedBlock<1>&, int i, int j, int column) {
          LiftedBlock<0> gradient = times(factor, product);
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
