// Host entries of triu_vec and triu_unvec: check the arguments, allocate the result, launch.
#include "triangle/entry.h"

#include <array>
#include <cmath>

#include "check.h"
#include "packed.h"
#include "triangle/launch.h"

namespace gcp_kernels {
namespace {

using torch::stable::Tensor;

// C with C(C+1)/2 == size, or -1.
int64_t side_of_triangle(int64_t size) {
  auto side = static_cast<int64_t>((std::sqrt(8.0 * static_cast<double>(size) + 1.0) - 1.0) / 2.0);
  while (side > 0 && side * (side + 1) / 2 > size) --side;
  while ((side + 1) * (side + 2) / 2 <= size) ++side;
  return side * (side + 1) / 2 == size ? side : -1;
}

// No device holds a dense matrix of 2^31 rows, but an expanded view may claim to be one.
int32_t checked_channels(int64_t channels, const char* operation) {
  check(channels < (int64_t{1} << 31), operation, "C must be below 2^31, got ", channels);
  return static_cast<int32_t>(channels);
}

}  // namespace

Tensor triu_vec(const Tensor& matrix, bool fold) {
  constexpr const char* kOperation = "triu_vec";
  check_cuda(matrix, kOperation, "matrix");
  const Element element = element_of(matrix, kOperation);
  check(matrix.dim() == 3 && matrix.size(1) == matrix.size(2), kOperation, "matrix must have shape (B, C, C), got ",
        ShapeOf{matrix});
  const int64_t batch = matrix.size(0);
  const int32_t channels = checked_channels(matrix.size(1), kOperation);
  const std::array<int64_t, 2> shape{batch, triangle_number<int64_t>(channels)};

  const torch::stable::accelerator::DeviceGuard guard(matrix.get_device_index());
  const Tensor vector = torch::stable::new_empty(matrix, {shape.data(), shape.size()});
  if (batch == 0 || channels == 0) return vector;
  check_launch(triu_vec_launch(element, matrix.const_data_ptr(), matrix.stride(0), matrix.stride(1), matrix.stride(2),
                               vector.mutable_data_ptr(), batch, channels, fold, current_stream(matrix, kOperation)),
               kOperation);
  return vector;
}

Tensor triu_unvec(const Tensor& vector, bool mirror) {
  constexpr const char* kOperation = "triu_unvec";
  check_cuda(vector, kOperation, "vector");
  const Element element = element_of(vector, kOperation);
  check(vector.dim() == 2, kOperation, "vector must have shape (B, C(C+1)/2), got ", ShapeOf{vector});
  const int64_t batch = vector.size(0);
  const int64_t side = side_of_triangle(vector.size(1));
  check(side >= 0, kOperation, "the length of vector must be C(C+1)/2 for some C, got ", vector.size(1));
  const int32_t channels = checked_channels(side, kOperation);
  const std::array<int64_t, 3> shape{batch, channels, channels};

  const torch::stable::accelerator::DeviceGuard guard(vector.get_device_index());
  const Tensor matrix = torch::stable::new_empty(vector, {shape.data(), shape.size()});
  if (batch == 0 || channels == 0) return matrix;
  check_launch(
      triu_unvec_launch(element, vector.const_data_ptr(), vector.stride(0), vector.stride(1), matrix.mutable_data_ptr(),
                        batch, channels, mirror, current_stream(vector, kOperation)),
      kOperation);
  return matrix;
}

std::string device_error(int64_t device) {
  if (!torch_has_cuda()) return kTorchWithoutCuda;
  const torch::stable::accelerator::DeviceGuard guard(static_cast<int32_t>(device));
  const cudaError_t error = triangle_probe();
  return error == cudaSuccess ? "" : cudaGetErrorString(error);
}

}  // namespace gcp_kernels
