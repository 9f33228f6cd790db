// Host entries of the pooling kernels: check the arguments, allocate the slabs, launch.
#include "pooling_entry.h"

#include <algorithm>
#include <array>

#include "entry.h"
#include "pooling.h"

namespace gcp_kernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

constexpr int64_t kMostCtas = 2147483647;

int device_attribute(cudaDeviceAttr attribute, int32_t device, const char* operation) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) cudaGetLastError();  // else the next launch would be taken for the one that failed
  check_launch(error, operation);
  return value;
}

// The tensor is of that shape, and where x is.
void check_shape(const Tensor& tensor, const Tensor& x, const char* operation, const char* argument,
                 std::initializer_list<int64_t> shape) {
  check_cuda(tensor, operation, argument);
  check(tensor.get_device_index() == x.get_device_index(), operation, argument,
        " must be on the device of x, cuda:", x.get_device_index(), ", got cuda:", tensor.get_device_index());
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  std::ostringstream wanted;
  for (const int64_t size : shape) {
    wanted << (axis ? ", " : "") << size;
    same = same && tensor.size(axis) == size;
    ++axis;
  }
  check(same, operation, argument, " must have shape (", wanted.str(), "), got ", shape_of(tensor));
}

void check_contiguous(const Tensor& tensor, const char* operation, const char* argument, ScalarType dtype) {
  check(tensor.is_contiguous(), operation, argument, " must be contiguous");
  check(tensor.scalar_type() == dtype, operation, argument, " must be ", torch::headeronly::toString(dtype), ", got ",
        torch::headeronly::toString(tensor.scalar_type()));
}

Features features_of(const Tensor& x, const char* operation) {
  check_cuda(x, operation, "x");
  const Element element = element_of(x, operation);
  check(element != Element::kFloat64, operation, "the dtype must be float16, bfloat16 or float32, got Double");
  check(x.dim() == 3, operation, "x must have shape (B, C, M), got ", shape_of(x));
  check(x.size(1) >= 1 && x.size(1) <= kMostChannels, operation, "C must be from 1 to ", kMostChannels, ", got ",
        x.size(1));
  check(x.size(2) >= 1 && x.size(2) <= kMostPositions, operation, "M must be from 1 to 2^30, got ", x.size(2));
  return {x.const_data_ptr(),
          x.stride(0),
          x.stride(1),
          x.stride(2),
          element,
          static_cast<int32_t>(x.size(1)),
          static_cast<int32_t>(x.size(2))};
}

void check_pooled(const Tensor& pooled, const Tensor& x, bool triu, const char* operation, const char* argument) {
  const int64_t batch = x.size(0), c = x.size(1);
  if (triu) {
    check_shape(pooled, x, operation, argument, {batch, c * (c + 1) / 2});
  } else {
    check_shape(pooled, x, operation, argument, {batch, c, c});
  }
}

SymmetricOutput output_of(const Tensor& pooled, const Tensor& x, const Features& features, bool triu,
                          const char* operation) {
  check_pooled(pooled, x, triu, operation, "pooled");
  check_contiguous(pooled, operation, "pooled", x.scalar_type());
  return {pooled.mutable_data_ptr(), features.element, features.channels, triu};
}

SymmetricGradient gradient_of(const Tensor& grad, const Tensor& x, const Features& features, bool triu,
                              const char* operation) {
  check_pooled(grad, x, triu, operation, "grad");
  check(grad.scalar_type() == x.scalar_type(), operation, "grad must have the dtype of x, got ",
        torch::headeronly::toString(grad.scalar_type()));
  return {grad.const_data_ptr(),
          grad.stride(0),
          grad.stride(1),
          triu ? 0 : grad.stride(2),
          features.element,
          features.channels,
          triu};
}

FeatureGradient feature_gradient_of(const Tensor& grad_x, const Tensor& x, const char* operation) {
  check_shape(grad_x, x, operation, "grad_x", {x.size(0), x.size(1), x.size(2)});
  check(grad_x.scalar_type() == x.scalar_type(), operation, "grad_x must have the dtype of x, got ",
        torch::headeronly::toString(grad_x.scalar_type()));
  return {grad_x.mutable_data_ptr(), grad_x.stride(0), grad_x.stride(1), grad_x.stride(2)};
}

ChannelScale scale_of(const std::optional<Tensor>& scale, const Tensor& x, const char* operation) {
  if (!scale) return {nullptr, 0, 0, Element::kFloat32};
  check_shape(*scale, x, operation, "scale", {x.size(0), x.size(1)});
  return {scale->const_data_ptr(), scale->stride(0), scale->stride(1), element_of(*scale, operation)};
}

void check_statistic(const Tensor& tensor, const Tensor& x, std::initializer_list<int64_t> shape, const char* operation,
                     const char* argument) {
  check_shape(tensor, x, operation, argument, shape);
  check_contiguous(tensor, operation, argument, ScalarType::Float);
}

// (B, C) or (B,) of float32, to be filled.
float* filled_statistic(const Tensor& statistic, const Tensor& x, std::initializer_list<int64_t> shape,
                        const char* operation, const char* argument) {
  check_statistic(statistic, x, shape, operation, argument);
  return static_cast<float*>(statistic.mutable_data_ptr());
}

// The same as an input: a mutable pointer of one would make torch copy a lazy clone.
const float* statistic_of(const Tensor& statistic, const Tensor& x, std::initializer_list<int64_t> shape,
                          const char* operation, const char* argument) {
  check_statistic(statistic, x, shape, operation, argument);
  return static_cast<const float*>(statistic.const_data_ptr());
}

int32_t checked_iterations(int64_t n_iter, const char* operation) {
  check(n_iter >= 1 && n_iter < (1 << 20), operation, "n_iter must be from 1 to 2^20 - 1, got ", n_iter);
  return static_cast<int32_t>(n_iter);
}

int32_t checked_planes(int64_t planes, const char* operation) {
  check(planes == 1 || planes == 2, operation, "planes must be 1 or 2, got ", planes);
  return static_cast<int32_t>(planes);
}

std::string layout_error(int64_t channels, int planes, Pass pass, int64_t limit) {
  const auto layout = layout_for(static_cast<int>(channels), planes, pass, static_cast<int>(limit));
  if (layout.resident > 0) return "";
  std::ostringstream message;
  message << "C = " << channels << " at precision=" << (planes == 2 ? "'high'" : "'fast'") << " needs "
          << least_layout(static_cast<int>(channels), planes, pass).shared_bytes()
          << " bytes of shared memory, a block of this GPU has " << limit;
  return message.str();
}

// The layout for the tensor's device, or for less shared memory than that has.
Layout layout_on(const Tensor& x, const Features& features, int planes, Pass pass, std::optional<int64_t> shared_limit,
                 const char* operation) {
  const int64_t most = shared_memory_limit(x.get_device_index());
  const int64_t limit = shared_limit.value_or(most);
  check(limit >= 0 && limit <= most, operation, "shared_limit must be from 0 to the ", most,
        " bytes of a block on this GPU, got ", limit);
  const std::string error = layout_error(features.channels, planes, pass, limit);
  check(error.empty(), operation, error);
  return layout_for(features.channels, planes, pass, static_cast<int>(limit));
}

// Launches a CTA for each sample; where slabs are needed, one for each multiprocessor, which then takes several
// samples: a layout that streams leaves no room for a second.
template <typename Arguments, typename Launch>
void launch(Arguments arguments, const Tensor& x, Launch pooling_launch, const char* operation) {
  const int64_t slab = arguments.layout.slab_bytes();
  check(arguments.batch <= kMostCtas, operation, "B must be below 2^31, got ", arguments.batch);
  int64_t ctas = arguments.batch;
  std::optional<Tensor> slabs;
  if (slab > 0) {
    ctas = std::min<int64_t>(ctas, device_attribute(cudaDevAttrMultiProcessorCount, x.get_device_index(), operation));
    // Kernels count bytes of slabs in 32 bits: enough for 4000 multiprocessors.
    check(ctas * slab < (int64_t{1} << 32), operation, "slabs of ", slab, " bytes for ", ctas, " blocks exceed 4 GiB");
    // In torch's deterministic mode they are filled with NaN at each call, up to 92 MB on an H100, unless the user has
    // set torch.utils.deterministic.fill_uninitialized_memory to False: the stable ABI does not allocate otherwise.
    const std::array<int64_t, 1> elements{ctas * slab / static_cast<int64_t>(sizeof(float))};
    slabs = torch::stable::new_empty(x, {elements.data(), elements.size()}, ScalarType::Float);
    arguments.slabs = static_cast<char*>(slabs->mutable_data_ptr());
  }
  check_launch(pooling_launch(arguments, static_cast<unsigned>(ctas), current_stream(x, operation)), operation);
}

}  // namespace

void isqrt_pool(const Tensor& x, int64_t n_iter, bool triu, int64_t planes, const Tensor& pooled, const Tensor& offset,
                const Tensor& trace, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Layout layout =
      layout_on(x, features, checked_planes(planes, kOperation), kForwardPass, shared_limit, kOperation);
  const ForwardArguments arguments{features,
                                   output_of(pooled, x, features, triu, kOperation),
                                   filled_statistic(offset, x, {batch, x.size(1)}, kOperation, "offset"),
                                   filled_statistic(trace, x, {batch}, kOperation, "trace"),
                                   nullptr,
                                   batch,
                                   checked_iterations(n_iter, kOperation),
                                   layout};
  if (batch > 0) launch(arguments, x, isqrt_forward_launch, kOperation);
}

void isqrt_pool_backward(const Tensor& grad, const Tensor& x, const Tensor& offset, const Tensor& trace, int64_t n_iter,
                         bool triu, int64_t planes, const Tensor& grad_x, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "isqrt_pool_backward";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const int32_t checked = checked_planes(planes, kOperation);
  const Layout layout = layout_on(x, features, checked, backward_pass(checked), shared_limit, kOperation);
  const BackwardArguments arguments{gradient_of(grad, x, features, triu, kOperation),
                                    features,
                                    statistic_of(offset, x, {batch, x.size(1)}, kOperation, "offset"),
                                    statistic_of(trace, x, {batch}, kOperation, "trace"),
                                    feature_gradient_of(grad_x, x, kOperation),
                                    nullptr,
                                    batch,
                                    checked_iterations(n_iter, kOperation),
                                    layout};
  if (batch > 0) launch(arguments, x, isqrt_backward_launch, kOperation);
}

void covariance_pool(const Tensor& x, std::optional<Tensor> scale, bool triu, int64_t planes, const Tensor& pooled,
                     const Tensor& offset, std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "covariance_pool";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0);
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Layout layout = layout_on(x, features, 1, kCovariancePass, shared_limit, kOperation);
  const CovarianceArguments arguments{features,
                                      scale_of(scale, x, kOperation),
                                      output_of(pooled, x, features, triu, kOperation),
                                      filled_statistic(offset, x, {batch, x.size(1)}, kOperation, "offset"),
                                      nullptr,
                                      batch,
                                      checked_planes(planes, kOperation),
                                      layout};
  if (batch > 0) launch(arguments, x, covariance_forward_launch, kOperation);
}

void covariance_pool_backward(const Tensor& grad, const Tensor& x, std::optional<Tensor> scale, const Tensor& offset,
                              bool triu, const Tensor& grad_x, std::optional<Tensor> grad_scale,
                              std::optional<int64_t> shared_limit) {
  constexpr const char* kOperation = "covariance_pool_backward";
  const Features features = features_of(x, kOperation);
  const int64_t batch = x.size(0);
  check(scale.has_value() == grad_scale.has_value(), kOperation, "grad_scale must be given where scale is");
  if (grad_scale) {
    check_shape(*grad_scale, x, kOperation, "grad_scale", {batch, x.size(1)});
    check_contiguous(*grad_scale, kOperation, "grad_scale", scale->scalar_type());
  }
  const torch::stable::accelerator::DeviceGuard guard(x.get_device_index());
  const Layout layout = layout_on(x, features, 1, kCovariancePass, shared_limit, kOperation);
  const CovarianceBackwardArguments arguments{gradient_of(grad, x, features, triu, kOperation),
                                              features,
                                              scale_of(scale, x, kOperation),
                                              statistic_of(offset, x, {batch, x.size(1)}, kOperation, "offset"),
                                              feature_gradient_of(grad_x, x, kOperation),
                                              grad_scale ? grad_scale->mutable_data_ptr() : nullptr,
                                              nullptr,
                                              batch,
                                              layout};
  if (batch > 0) launch(arguments, x, covariance_backward_launch, kOperation);
}

int64_t shared_memory_limit(int64_t device) {
  check(torch_has_cuda(), "shared_memory_limit", kTorchWithoutCuda);
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int32_t>(device), "shared_memory_limit");
}

std::tuple<int64_t, int64_t, int64_t> pooling_layout(int64_t channels, int64_t planes, bool backward,
                                                     int64_t shared_limit) {
  const Pass pass = backward ? backward_pass(checked_planes(planes, "pooling_layout")) : kForwardPass;
  const Layout layout = layout_for(static_cast<int>(channels), checked_planes(planes, "pooling_layout"), pass,
                                   static_cast<int>(shared_limit));
  return {layout.resident, layout.matrices, layout.shared_bytes()};
}

std::string pooling_error(int64_t channels, int64_t planes, int64_t shared_limit) {
  if (channels > kMostChannels) {
    std::ostringstream message;
    message << "it supports up to " << kMostChannels << " channels, got " << channels;
    return message.str();
  }
  // The backward pass takes no less than the forward pass.
  const int32_t checked = checked_planes(planes, "pooling_error");
  return layout_error(channels, checked, backward_pass(checked), shared_limit);
}

}  // namespace gcp_kernels
