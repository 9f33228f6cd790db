// What the kernels of iSQRT-COV pooling on the side of the positions are given: plain structures for host and device.
#pragma once

#include <cstdint>

#include "device/arguments.h"
#include "isqrt_pool/positions/layout.h"

namespace gcp_kernels {

struct PositionsForwardArguments {
  Features x;
  SymmetricOutput pooled;
  float* centre;  // (B, C), the mean less the first position
  float* trace;   // (B,)
  char* slabs;    // layout.slab_bytes() for each CTA; here and below
  std::int64_t batch;
  std::int32_t n_iter;
  PositionsLayout layout;
};

struct PositionsBackwardArguments {
  SymmetricGradient grad;
  Features x;
  const float* centre;  // as the forward pass left them
  const float* trace;
  FeatureGradient grad_x;
  char* slabs;
  std::int64_t batch;
  std::int32_t n_iter;
  PositionsLayout layout;
};

}  // namespace gcp_kernels
