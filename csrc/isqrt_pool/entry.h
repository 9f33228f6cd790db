// Host entries of iSQRT-COV pooling. Results are written into tensors that the caller has allocated.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>

namespace gcp_kernels {

// x: (B, C, M), any strides. Fills pooled, (B, C(C+1)/2) or (B, C, C), of x's dtype; centre, (B, C), the mean less the
// first position, and trace, (B,), float32; all contiguous. `planes` is 1 for "fast", 2 for "high"; with
// `positions` it iterates on their side; `shared_limit` is that of layout_on().
void isqrt_pool(const torch::stable::Tensor& x, int64_t n_iter, bool triu, int64_t planes, bool positions,
                const torch::stable::Tensor& pooled, const torch::stable::Tensor& centre,
                const torch::stable::Tensor& trace, std::optional<int64_t> shared_limit);

// The pooled features alone, in memory of their own: for programs that only run a network forward.
torch::stable::Tensor isqrt_pool_inference(const torch::stable::Tensor& x, int64_t n_iter, bool triu, int64_t planes,
                                           bool positions);

// Fills grad_x, shaped like x, any strides, from the gradient of pooled and from what the forward pass left, on
// whichever side that was.
void isqrt_pool_backward(const torch::stable::Tensor& grad, const torch::stable::Tensor& x,
                         const torch::stable::Tensor& centre, const torch::stable::Tensor& trace, int64_t n_iter,
                         bool triu, int64_t planes, bool positions, const torch::stable::Tensor& grad_x,
                         std::optional<int64_t> shared_limit);

}  // namespace gcp_kernels
