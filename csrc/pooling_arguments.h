// The tensors of both pooling operations as the plain structures that their kernels are given, checked: where each is,
// its shape and its dtype, and that those are contiguous which a kernel takes for contiguous.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <initializer_list>
#include <optional>

#include "device/arguments.h"

namespace gcp_kernels {

// x: (B, C, M), float16, bfloat16 or float32, any strides, of at most so many channels and positions. All else is held
// against it.
Features features_of(const torch::stable::Tensor& x, int64_t most_channels, int64_t most_positions,
                     const char* operation);

// What is to be filled: (B, C(C+1)/2) for `triu`, or (B, C, C), contiguous, of the dtype of x.
SymmetricOutput output_of(const torch::stable::Tensor& pooled, const torch::stable::Tensor& x, bool triu,
                          const char* operation);

// Memory for such a result.
torch::stable::Tensor new_pooled(const torch::stable::Tensor& x, bool triu, const char* operation);

// Memory for a statistic: float32, where x is.
torch::stable::Tensor new_statistic(const torch::stable::Tensor& x, std::initializer_list<int64_t> shape);

// The gradient of such a result, of the dtype of x, any strides.
SymmetricGradient gradient_of(const torch::stable::Tensor& grad, const torch::stable::Tensor& x, bool triu,
                              const char* operation);

// To be filled: of the shape and dtype of x, any strides.
FeatureGradient feature_gradient_of(const torch::stable::Tensor& grad_x, const torch::stable::Tensor& x,
                                    const char* operation);

// A statistic to be filled, or read: float32, contiguous, of that shape.
float* filled_statistic(const torch::stable::Tensor& statistic, const torch::stable::Tensor& x,
                        std::initializer_list<int64_t> shape, const char* operation, const char* argument);
const float* statistic_of(const torch::stable::Tensor& statistic, const torch::stable::Tensor& x,
                          std::initializer_list<int64_t> shape, const char* operation, const char* argument);

// The tensor is of that shape, and where x is.
void check_shape(const torch::stable::Tensor& tensor, const torch::stable::Tensor& x, const char* operation,
                 const char* argument, std::initializer_list<int64_t> shape);

void check_contiguous(const torch::stable::Tensor& tensor, const char* operation, const char* argument,
                      torch::headeronly::ScalarType dtype);

}  // namespace gcp_kernels
