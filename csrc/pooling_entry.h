// Host entries of the pooling kernels. Results are written into tensors that the caller has allocated.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

namespace gcp_kernels {

// In all four, `shared_limit` has a block use no more than so many bytes of shared memory, so that matrices which would
// be resident are streamed; without it, what the GPU has. The result is the same to the last bit: tests hold one
// against the other, and nothing else gives it.

// x: (B, C, M), any strides. Fills pooled, (B, C(C+1)/2) or (B, C, C), of x's dtype; offset, (B, C), and trace, (B,),
// float32; all contiguous. `planes` is 1 for "fast", 2 for "high".
void isqrt_pool(const torch::stable::Tensor& x, int64_t n_iter, bool triu, int64_t planes,
                const torch::stable::Tensor& pooled, const torch::stable::Tensor& offset,
                const torch::stable::Tensor& trace, std::optional<int64_t> shared_limit);

// Fills grad_x, shaped like x, any strides, from the gradient of pooled and from what the forward pass left.
void isqrt_pool_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                         const torch::stable::Tensor& offset, const torch::stable::Tensor& trace, int64_t n_iter,
                         bool triu, int64_t planes, const torch::stable::Tensor& grad_x,
                         std::optional<int64_t> shared_limit);

// The same for the covariance, with an optional scale (B, C), float16 to float64, any strides.
void covariance_pool(const torch::stable::Tensor& x, std::optional<torch::stable::Tensor> scale, bool triu,
                     int64_t planes, const torch::stable::Tensor& pooled, const torch::stable::Tensor& offset,
                     std::optional<int64_t> shared_limit);

// grad_scale: (B, C) contiguous, of the scale's dtype; given where the scale is.
void covariance_pool_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                              std::optional<torch::stable::Tensor> scale, const torch::stable::Tensor& offset,
                              bool triu, const torch::stable::Tensor& grad_x,
                              std::optional<torch::stable::Tensor> grad_scale, std::optional<int64_t> shared_limit);

// Bytes of shared memory that a block may use on CUDA device number `device`.
int64_t shared_memory_limit(int64_t device);

// Of a pass of iSQRT-COV pooling, where a block may use so many bytes of shared memory: matrices that stay there, all
// matrices, and the bytes that a block then takes.
std::tuple<int64_t, int64_t, int64_t> pooling_layout(int64_t channels, int64_t planes, bool backward,
                                                     int64_t shared_limit);

// Why the kernels of these do not fit in so many bytes of shared memory; empty where they do.
std::string pooling_error(int64_t channels, int64_t planes, int64_t shared_limit);

}  // namespace gcp_kernels
