#include "isqrt_pool/entry.h"

#include "isqrt_pool/launch.h"
#include "pooling_arguments.h"
#include "pooling_launch.h"

namespace gcp_kernels {

using torch::stable::Tensor;

namespace {

// So that the number of products is an int.
int32_t checked_iterations(int64_t n_iter, const char* operation) {
  check(n_iter >= 1 && n_iter < (1 << 20), operation, "n_iter must be from 1 to 2^20 - 1, got ", n_iter);
  return static_cast<int32_t>(n_iter);
}

}  // namespace

void isqrt_pool(const Tensor& x, int64_t n_iter, bool triu, int64_t planes, const Tensor& pooled, const Tensor& centre,
                const Tensor& trace, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int checked = checked_planes(planes, kOperation);
  const IsqrtPoolForwardArguments arguments{features,
                                            output_of(pooled, x, triu, kOperation),
                                            filled_statistic(centre, x, {batch, channels}, kOperation, "centre"),
                                            filled_statistic(trace, x, {batch}, kOperation, "trace"),
                                            nullptr,
                                            batch,
                                            checked_iterations(n_iter, kOperation),
                                            layout_on(x, checked, kForwardPass, shared_limit, kOperation)};
  pool_on_stream(arguments, x, isqrt_pool_forward_launch, kOperation);
}

void isqrt_pool_backward(const Tensor& grad, const Tensor& x, const Tensor& centre, const Tensor& trace, int64_t n_iter,
                         bool triu, int64_t planes, const Tensor& grad_x, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool_backward";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int checked = checked_planes(planes, kOperation);
  const IsqrtPoolBackwardArguments arguments{gradient_of(grad, x, triu, kOperation),
                                             features,
                                             statistic_of(centre, x, {batch, channels}, kOperation, "centre"),
                                             statistic_of(trace, x, {batch}, kOperation, "trace"),
                                             feature_gradient_of(grad_x, x, kOperation),
                                             nullptr,
                                             batch,
                                             checked_iterations(n_iter, kOperation),
                                             layout_on(x, checked, backward_pass(checked), shared_limit, kOperation)};
  pool_on_stream(arguments, x, isqrt_pool_backward_launch, kOperation);
}

}  // namespace gcp_kernels
