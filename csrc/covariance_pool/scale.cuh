// The factor s of a channel.
#pragma once

#include "covariance_pool/arguments.h"
#include "device/elements.cuh"

namespace gcp_kernels {

__device__ inline float scale_of(const ChannelScale& scale, std::int64_t sample, int channel) {
  if (scale.data == nullptr) return 1.0f;
  const std::int64_t offset = sample * scale.batch_stride + channel * scale.channel_stride;
  if (scale.element == Element::kFloat64) return static_cast<float>(static_cast<const double*>(scale.data)[offset]);
  return load_element(scale.element, scale.data, offset);
}

}  // namespace gcp_kernels
