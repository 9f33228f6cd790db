#include "policy_entry.h"

#include <sstream>

#include "check.h"

namespace gcp_kernels {
namespace {

std::string why_too_large(int channels, int planes, Pass pass, int64_t shared_limit) {
  std::ostringstream message;
  message << "C = " << channels << " at precision=" << (planes == 2 ? "'high'" : "'fast'") << " needs "
          << least_layout(channels, planes, pass).shared_bytes() << " bytes of shared memory, a block of this GPU has "
          << shared_limit;
  return message.str();
}

}  // namespace

int device_attribute(cudaDeviceAttr attribute, int32_t device, const char* operation) {
  int value = 0;
  const cudaError_t error = cudaDeviceGetAttribute(&value, attribute, device);
  if (error != cudaSuccess) cudaGetLastError();  // else the next launch would be taken for the one that failed
  check_launch(error, operation);
  return value;
}

int64_t shared_memory_limit(int64_t device) {
  check(torch_has_cuda(), "shared_memory_limit", kTorchWithoutCuda);
  return device_attribute(cudaDevAttrMaxSharedMemoryPerBlockOptin, static_cast<int32_t>(device), "shared_memory_limit");
}

int checked_planes(int64_t planes, const char* operation) {
  check(planes == 1 || planes == 2, operation, "planes must be 1 or 2, got ", planes);
  return static_cast<int>(planes);
}

int64_t shared_limit_on(const torch::stable::Tensor& x, std::optional<int64_t> shared_limit, const char* operation) {
  const int64_t most = shared_memory_limit(x.get_device_index());
  const int64_t limit = shared_limit.value_or(most);
  check(limit >= 0 && limit <= most, operation, "shared_limit must be from 0 to the ", most,
        " bytes of a block on this GPU, got ", limit);
  return limit;
}

Layout layout_on(const torch::stable::Tensor& x, int planes, Pass pass, std::optional<int64_t> shared_limit,
                 const char* operation) {
  const int64_t limit = shared_limit_on(x, shared_limit, operation);
  const int channels = static_cast<int>(x.size(1));
  const Layout layout = layout_for(channels, planes, pass, static_cast<int>(limit));
  if (layout.resident == 0) check(false, operation, why_too_large(channels, planes, pass, limit));
  return layout;
}

std::tuple<int64_t, int64_t, int64_t> pooling_layout(int64_t channels, int64_t planes, bool backward,
                                                     int64_t shared_limit) {
  const int checked = checked_planes(planes, "pooling_layout");
  const Layout layout = layout_for(static_cast<int>(channels), checked,
                                   backward ? backward_pass(checked) : kForwardPass, static_cast<int>(shared_limit));
  return {layout.resident, layout.matrices, layout.shared_bytes()};
}

std::string pooling_error(int64_t channels, int64_t planes, int64_t shared_limit) {
  if (channels > kMostChannels) {
    std::ostringstream message;
    message << "it supports up to " << kMostChannels << " channels, got " << channels;
    return message.str();
  }
  // The backward pass takes no less than the forward pass.
  const int c = static_cast<int>(channels), checked = checked_planes(planes, "pooling_error");
  const Pass pass = backward_pass(checked);
  const Layout layout = layout_for(c, checked, pass, static_cast<int>(shared_limit));
  return layout.resident > 0 ? "" : why_too_large(c, checked, pass, shared_limit);
}

}  // namespace gcp_kernels
