// What every host entry needs from torch, through the LibTorch stable ABI alone. Arguments are checked in Python; the
// entries check only what could corrupt memory: where a tensor is, its dtype, shape and strides, the ranges of B, C, M,
// n_iter, planes and shared_limit, and the size of slabs. A message is put together only where a check has failed.
#pragma once

#include <cuda_runtime_api.h>
#include <torch/csrc/stable/accelerator.h>
#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>

#include "current_stream.h"
#include "device/element.h"

namespace gcp_kernels {

constexpr const char* kTorchWithoutCuda = "this build of torch has no CUDA support; install a CUDA build of torch";

inline bool torch_has_cuda() { return find_current_stream() != nullptr; }

// Throws std::runtime_error, a RuntimeError in Python, of "operation: message parts..." unless `condition`.
template <typename... Parts>
void check(bool condition, const char* operation, const Parts&... parts) {
  if (condition) return;
  std::ostringstream message;
  message << "gcp_kernels_cuda::" << operation << ": ";
  (message << ... << parts);
  throw std::runtime_error(message.str());
}

inline void check_launch(cudaError_t error, const char* operation) {
  check(error == cudaSuccess, operation, "the CUDA launch failed: ", cudaGetErrorString(error), " (",
        cudaGetErrorName(error), ")");
}

// The tensor is strided and on a CUDA device.
inline void check_cuda(const torch::stable::Tensor& tensor, const char* operation, const char* argument) {
  check(tensor.is_cuda(), operation, argument, " must be a CUDA tensor, got ",
        tensor.is_cpu() ? "one on the CPU" : "one on another device");
  check(tensor.layout() == torch::headeronly::Layout::Strided, operation, argument,
        " must be a dense (strided) tensor");
}

// torch's current stream of the tensor's device.
inline cudaStream_t current_stream(const torch::stable::Tensor& tensor, const char* operation) {
  check(torch_has_cuda(), operation, kTorchWithoutCuda);
  void* stream = nullptr;
  check(find_current_stream()(tensor.get_device_index(), &stream) == TORCH_SUCCESS, operation,
        "torch did not give the current stream of CUDA device ", tensor.get_device_index());
  return static_cast<cudaStream_t>(stream);
}

inline Element element_of(const torch::stable::Tensor& tensor, const char* operation) {
  using torch::headeronly::ScalarType;
  switch (tensor.scalar_type()) {
    case ScalarType::Half:
      return Element::kFloat16;
    case ScalarType::BFloat16:
      return Element::kBFloat16;
    case ScalarType::Float:
      return Element::kFloat32;
    case ScalarType::Double:
      return Element::kFloat64;
    default:
      check(false, operation, "the dtype must be float16, bfloat16, float32 or float64, got ",
            torch::headeronly::toString(tensor.scalar_type()));
      return Element::kFloat32;  // not reached
  }
}

// A tensor whose shape a message names.
struct ShapeOf {
  const torch::stable::Tensor& tensor;
};

inline std::ostream& operator<<(std::ostream& stream, const ShapeOf& shape) {
  stream << '(';
  for (int64_t axis = 0; axis < shape.tensor.dim(); ++axis) stream << (axis ? ", " : "") << shape.tensor.size(axis);
  return stream << ')';
}

}  // namespace gcp_kernels
