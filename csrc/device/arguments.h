// What the pooling kernels are given: plain structures for host and device. Strides count elements.
#pragma once

#include <cstdint>

#include "device/element.h"

namespace gcp_kernels {

// (B, C, M), any strides.
struct Features {
  const void* data;
  std::int64_t batch_stride;
  std::int64_t channel_stride;
  std::int64_t position_stride;
  Element element;
  std::int32_t channels;
  std::int32_t positions;
};

// A gradient of features, of their element type, any strides.
struct FeatureGradient {
  void* data;
  std::int64_t batch_stride;
  std::int64_t channel_stride;
  std::int64_t position_stride;
};

// A symmetric result, contiguous: (B, C, C), or its upper triangle, (B, C(C+1)/2).
struct SymmetricOutput {
  void* data;
  Element element;
  std::int32_t channels;
  bool triangle;
};

// A gradient of such a result, any strides; of a triangle `row_stride` is that of its elements.
struct SymmetricGradient {
  const void* data;
  std::int64_t batch_stride;
  std::int64_t row_stride;
  std::int64_t column_stride;
  Element element;
  std::int32_t channels;
  bool triangle;
};

// (B, C), any strides; null without a scale.
struct ChannelScale {
  const void* data;
  std::int64_t batch_stride;
  std::int64_t channel_stride;
  Element element;
};

}  // namespace gcp_kernels
