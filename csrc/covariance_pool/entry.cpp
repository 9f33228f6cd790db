#include "covariance_pool/entry.h"

#include "covariance_pool/launch.h"
#include "pooling_arguments.h"
#include "pooling_launch.h"

namespace gcp_kernels {

using torch::stable::Tensor;

namespace {

ChannelScale scale_of(const std::optional<Tensor>& scale, const Tensor& x, const char* operation) {
  if (!scale) return {nullptr, 0, 0, Element::kFloat32};
  check_shape(*scale, x, operation, "scale", {x.size(0), x.size(1)});
  return {scale->const_data_ptr(), scale->stride(0), scale->stride(1), element_of(*scale, operation)};
}

}  // namespace

void covariance_pool(const Tensor& x, std::optional<Tensor> scale, bool triu, int64_t planes, const Tensor& pooled,
                     const Tensor& centre, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "covariance_pool";
  const Features features = features_of(x, kMostChannels, kMostPositions, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const CovariancePoolForwardArguments arguments{features,
                                                 scale_of(scale, x, kOperation),
                                                 output_of(pooled, x, triu, kOperation),
                                                 filled_statistic(centre, x, {batch, channels}, kOperation, "centre"),
                                                 nullptr,
                                                 batch,
                                                 checked_planes(planes, kOperation),
                                                 layout_on(x, 1, kCovariancePass, shared_limit, kOperation)};
  pool_on_stream(arguments, x, covariance_pool_forward_launch, kOperation);
}

Tensor covariance_pool_inference(const Tensor& x, std::optional<Tensor> scale, bool triu, int64_t planes) {
  const Tensor pooled = new_pooled(x, triu, "covariance_pool_inference");
  covariance_pool(x, scale, triu, planes, pooled, new_statistic(x, {x.size(0), x.size(1)}), std::nullopt);
  return pooled;
}

void covariance_pool_backward(const Tensor& grad, const Tensor& x, std::optional<Tensor> scale, const Tensor& centre,
                              bool triu, const Tensor& grad_x, std::optional<Tensor> grad_scale,
                              std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "covariance_pool_backward";
  const Features features = features_of(x, kMostChannels, kMostPositions, kOperation);
  const int64_t batch = x.size(0), channels = x.size(1);
  check(scale.has_value() == grad_scale.has_value(), kOperation, "grad_scale must be given where scale is");
  if (grad_scale) {
    check_shape(*grad_scale, x, kOperation, "grad_scale", {batch, channels});
    check_contiguous(*grad_scale, kOperation, "grad_scale", scale->scalar_type());
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const CovariancePoolBackwardArguments arguments{gradient_of(grad, x, triu, kOperation),
                                                  features,
                                                  scale_of(scale, x, kOperation),
                                                  statistic_of(centre, x, {batch, channels}, kOperation, "centre"),
                                                  feature_gradient_of(grad_x, x, kOperation),
                                                  grad_scale ? grad_scale->mutable_data_ptr() : nullptr,
                                                  nullptr,
                                                  batch,
                                                  layout_on(x, 1, kCovariancePass, shared_limit, kOperation)};
  pool_on_stream(arguments, x, covariance_pool_backward_launch, kOperation);
}

}  // namespace gcp_kernels
