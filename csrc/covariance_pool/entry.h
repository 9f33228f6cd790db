// Host entries of covariance pooling. Results are written into tensors that the caller has allocated.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

namespace gcp_kernels {

// x: (B, C, M), any strides; scale: (B, C), float16 to float64, any strides, or none. Fills pooled, (B, C(C+1)/2) or
// (B, C, C), of x's dtype, and centre, (B, C), the mean less the first position, float32; both contiguous. `planes`, of
// the features, is 1 for "fast", 2 for "high"; `shared_limit` is that of layout_on().
void covariance_pool(const torch::stable::Tensor& x, std::optional<torch::stable::Tensor> scale, bool triu,
                     int64_t planes, const torch::stable::Tensor& pooled, const torch::stable::Tensor& centre,
                     std::optional<int64_t> shared_limit);

// The covariance alone, in memory of its own: for programs that only run a network forward.
torch::stable::Tensor covariance_pool_inference(const torch::stable::Tensor& x,
                                                std::optional<torch::stable::Tensor> scale, bool triu, int64_t planes);

// Fills grad_x, shaped like x, any strides, and grad_scale, (B, C) contiguous, of the scale's dtype; given where the
// scale is.
void covariance_pool_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                              std::optional<torch::stable::Tensor> scale, const torch::stable::Tensor& centre,
                              bool triu, const torch::stable::Tensor& grad_x,
                              std::optional<torch::stable::Tensor> grad_scale, std::optional<int64_t> shared_limit);

}  // namespace gcp_kernels
