#include "isqrt_pool/entry.h"

#include "isqrt_pool/launch.h"
#include "isqrt_pool/positions/launch.h"
#include "isqrt_pool/positions/layout_entry.h"
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

// The features, as many as the kernels take that iterate on the side of the positions, or of the channels.
Features features_on(bool positions, const Tensor& x, const char* operation) {
  return positions ? features_of(x, kMostPooledChannels, kMostIteratedPositions, operation)
                   : features_of(x, kMostChannels, kMostPositions, operation);
}

}  // namespace

void isqrt_pool(const Tensor& x, int64_t n_iter, bool triu, int64_t planes, bool positions, const Tensor& pooled,
                const Tensor& centre, const Tensor& trace, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool";
  const Features features = features_on(positions, x, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int checked = checked_planes(planes, kOperation);
  const SymmetricOutput output = output_of(pooled, x, triu, kOperation);
  float* const centres = filled_statistic(centre, x, {batch, channels}, kOperation, "centre");
  float* const traces = filled_statistic(trace, x, {batch}, kOperation, "trace");
  const int32_t iterations = checked_iterations(n_iter, kOperation);
  const auto pool = [&](auto arguments, auto launch) { pool_on_stream(arguments, x, launch, kOperation); };
  if (positions) {
    pool(PositionsForwardArguments{features, output, centres, traces, nullptr, batch, iterations,
                                   positions_layout_on(x, checked, false, shared_limit, kOperation)},
         isqrt_pool_positions_forward_launch);
  } else {
    pool(IsqrtPoolForwardArguments{features, output, centres, traces, nullptr, batch, iterations,
                                   layout_on(x, checked, kForwardPass, shared_limit, kOperation)},
         isqrt_pool_forward_launch);
  }
}

Tensor isqrt_pool_inference(const Tensor& x, int64_t n_iter, bool triu, int64_t planes, bool positions) {
  const Tensor pooled = new_pooled(x, triu, "isqrt_pool_inference");
  const Tensor centre = new_statistic(x, {x.size(0), x.size(1)}), trace = new_statistic(x, {x.size(0)});
  isqrt_pool(x, n_iter, triu, planes, positions, pooled, centre, trace, std::nullopt);
  return pooled;
}

void isqrt_pool_backward(const Tensor& grad, const Tensor& x, const Tensor& centre, const Tensor& trace, int64_t n_iter,
                         bool triu, int64_t planes, bool positions, const Tensor& grad_x,
                         std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool_backward";
  const Features features = features_on(positions, x, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int checked = checked_planes(planes, kOperation);
  const SymmetricGradient upstream = gradient_of(grad, x, triu, kOperation);
  const float* const centres = statistic_of(centre, x, {batch, channels}, kOperation, "centre");
  const float* const traces = statistic_of(trace, x, {batch}, kOperation, "trace");
  const FeatureGradient result = feature_gradient_of(grad_x, x, kOperation);
  const int32_t iterations = checked_iterations(n_iter, kOperation);
  const auto pool = [&](auto arguments, auto launch) { pool_on_stream(arguments, x, launch, kOperation); };
  if (positions) {
    pool(PositionsBackwardArguments{upstream, features, centres, traces, result, nullptr, batch, iterations,
                                    positions_layout_on(x, checked, true, shared_limit, kOperation)},
         isqrt_pool_positions_backward_launch);
  } else {
    pool(IsqrtPoolBackwardArguments{upstream, features, centres, traces, result, nullptr, batch, iterations,
                                    layout_on(x, checked, backward_pass(checked), shared_limit, kOperation)},
         isqrt_pool_backward_launch);
  }
}

}  // namespace gcp_kernels
