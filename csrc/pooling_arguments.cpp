#include "pooling_arguments.h"

#include <torch/csrc/stable/ops.h>

#include "check.h"
#include "policy.h"

namespace gcp_kernels {
namespace {

using torch::headeronly::ScalarType;
using torch::stable::Tensor;

// Sizes that a message names.
struct Sizes {
  std::initializer_list<int64_t> sizes;
};

std::ostream& operator<<(std::ostream& stream, const Sizes& shape) {
  const char* separator = "(";
  for (const int64_t size : shape.sizes) {
    stream << separator << size;
    separator = ", ";
  }
  return stream << ')';
}

void check_same_dtype(const Tensor& tensor, const Tensor& x, const char* operation, const char* argument) {
  check(tensor.scalar_type() == x.scalar_type(), operation, argument, " must have the dtype of x, got ",
        torch::headeronly::toString(tensor.scalar_type()));
}

void check_pooled(const Tensor& pooled, const Tensor& x, bool triu, const char* operation, const char* argument) {
  const int64_t batch = x.size(0), c = x.size(1);
  if (triu) {
    check_shape(pooled, x, operation, argument, {batch, triangle_number(c)});
  } else {
    check_shape(pooled, x, operation, argument, {batch, c, c});
  }
}

void check_statistic(const Tensor& statistic, const Tensor& x, std::initializer_list<int64_t> shape,
                     const char* operation, const char* argument) {
  check_shape(statistic, x, operation, argument, shape);
  check_contiguous(statistic, operation, argument, ScalarType::Float);
}

Tensor allocate(const Tensor& x, std::initializer_list<int64_t> shape, ScalarType dtype) {
  return torch::stable::new_empty(x, {shape.begin(), shape.size()}, dtype);
}

}  // namespace

Tensor new_pooled(const Tensor& x, bool triu, const char* operation) {
  check_cuda(x, operation, "x");
  check(x.dim() == 3, operation, "x must have shape (B, C, M), got ", ShapeOf{x});
  const int64_t batch = x.size(0), c = x.size(1);
  return triu ? allocate(x, {batch, triangle_number(c)}, x.scalar_type()) : allocate(x, {batch, c, c}, x.scalar_type());
}

Tensor new_statistic(const Tensor& x, std::initializer_list<int64_t> shape) {
  return allocate(x, shape, ScalarType::Float);
}

void check_shape(const Tensor& tensor, const Tensor& x, const char* operation, const char* argument,
                 std::initializer_list<int64_t> shape) {
  check_cuda(tensor, operation, argument);
  check(tensor.get_device_index() == x.get_device_index(), operation, argument,
        " must be on the device of x, cuda:", x.get_device_index(), ", got cuda:", tensor.get_device_index());
  bool same = tensor.dim() == static_cast<int64_t>(shape.size());
  int64_t axis = 0;
  for (const int64_t size : shape) {
    same = same && tensor.size(axis) == size;
    ++axis;
  }
  check(same, operation, argument, " must have shape ", Sizes{shape}, ", got ", ShapeOf{tensor});
}

void check_contiguous(const Tensor& tensor, const char* operation, const char* argument, ScalarType dtype) {
  check(tensor.is_contiguous(), operation, argument, " must be contiguous");
  check(tensor.scalar_type() == dtype, operation, argument, " must be ", torch::headeronly::toString(dtype), ", got ",
        torch::headeronly::toString(tensor.scalar_type()));
}

Features features_of(const Tensor& x, int64_t most_channels, int64_t most_positions, const char* operation) {
  check_cuda(x, operation, "x");
  const Element element = element_of(x, operation);
  check(element != Element::kFloat64, operation, "the dtype must be float16, bfloat16 or float32, got Double");
  check(x.dim() == 3, operation, "x must have shape (B, C, M), got ", ShapeOf{x});
  const int64_t channels = x.size(1), positions = x.size(2);
  check(channels >= 1 && channels <= most_channels, operation, "C must be from 1 to ", most_channels, ", got ",
        channels);
  check(positions >= 1 && positions <= most_positions, operation, "M must be from 1 to ", most_positions, ", got ",
        positions);
  return {x.const_data_ptr(),
          x.stride(0),
          x.stride(1),
          x.stride(2),
          element,
          static_cast<int32_t>(channels),
          static_cast<int32_t>(positions)};
}

SymmetricOutput output_of(const Tensor& pooled, const Tensor& x, bool triu, const char* operation) {
  check_pooled(pooled, x, triu, operation, "pooled");
  check_contiguous(pooled, operation, "pooled", x.scalar_type());
  return {pooled.mutable_data_ptr(), element_of(x, operation), static_cast<int32_t>(x.size(1)), triu};
}

SymmetricGradient gradient_of(const Tensor& grad, const Tensor& x, bool triu, const char* operation) {
  check_pooled(grad, x, triu, operation, "grad");
  check_same_dtype(grad, x, operation, "grad");
  return {grad.const_data_ptr(),
          grad.stride(0),
          grad.stride(1),
          triu ? 0 : grad.stride(2),
          element_of(x, operation),
          static_cast<int32_t>(x.size(1)),
          triu};
}

FeatureGradient feature_gradient_of(const Tensor& grad_x, const Tensor& x, const char* operation) {
  check_shape(grad_x, x, operation, "grad_x", {x.size(0), x.size(1), x.size(2)});
  check_same_dtype(grad_x, x, operation, "grad_x");
  return {grad_x.mutable_data_ptr(), grad_x.stride(0), grad_x.stride(1), grad_x.stride(2)};
}

float* filled_statistic(const Tensor& statistic, const Tensor& x, std::initializer_list<int64_t> shape,
                        const char* operation, const char* argument) {
  check_statistic(statistic, x, shape, operation, argument);
  return static_cast<float*>(statistic.mutable_data_ptr());
}

// A mutable pointer of an input would make torch copy a lazy clone.
const float* statistic_of(const Tensor& statistic, const Tensor& x, std::initializer_list<int64_t> shape,
                          const char* operation, const char* argument) {
  check_statistic(statistic, x, shape, operation, argument);
  return static_cast<const float*>(statistic.const_data_ptr());
}

}  // namespace gcp_kernels
