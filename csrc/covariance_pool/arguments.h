// What the kernels of covariance pooling are given: plain structures for host and device.
#pragma once

#include <cstdint>

#include "device/arguments.h"
#include "policy.h"

namespace gcp_kernels {

struct CovariancePoolForwardArguments {
  Features x;
  ChannelScale scale;
  SymmetricOutput pooled;
  float* centre;
  char* slabs;
  std::int64_t batch;
  std::int32_t planes;  // of the features
  Layout layout;
};

struct CovariancePoolBackwardArguments {
  SymmetricGradient grad;
  Features x;
  ChannelScale scale;
  const float* centre;
  FeatureGradient grad_x;
  void* grad_scale;  // (B, C) contiguous, of the scale's element type; unused without one
  char* slabs;
  std::int64_t batch;
  Layout layout;
};

}  // namespace gcp_kernels
