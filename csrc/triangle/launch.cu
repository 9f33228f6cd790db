// Grids and launches of the triangle kernels. Torch-free, so that nvcc alone compiles it.
#include <algorithm>

#include "triangle/launch.h"
#include "triangle/triangle.cuh"

namespace gcp_kernels {
namespace {

constexpr std::int64_t kMaxGridX = 2147483647;  // batch
constexpr std::int64_t kMaxGridY = 65535;       // tiles; the kernels stride over what is left

dim3 triangle_grid(std::int64_t batch, std::int32_t channels) {
  return dim3(static_cast<unsigned>(std::min(batch, kMaxGridX)),
              static_cast<unsigned>(std::min(triangle_number<std::int64_t>(tiles_per_side(channels)), kMaxGridY)));
}

// Calls `launch` with a null pointer of the element's type, from which it takes the type.
template <typename Launch>
cudaError_t with_element_type(Element element, Launch launch) {
  switch (element) {
    case Element::kFloat16:
      launch(static_cast<__half*>(nullptr));
      break;
    case Element::kBFloat16:
      launch(static_cast<__nv_bfloat16*>(nullptr));
      break;
    case Element::kFloat32:
      launch(static_cast<float*>(nullptr));
      break;
    case Element::kFloat64:
      launch(static_cast<double*>(nullptr));
      break;
    default:
      return cudaErrorInvalidValue;
  }
  return cudaGetLastError();
}

}  // namespace

cudaError_t triu_vec_launch(Element element, const void* matrix, std::int64_t batch_stride, std::int64_t row_stride,
                            std::int64_t column_stride, void* vector, std::int64_t batch, std::int32_t channels,
                            bool fold, cudaStream_t stream) {
  return with_element_type(element, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    triu_vec_kernel<T><<<triangle_grid(batch, channels), dim3(kTileSide, kRowsInFlight), 0, stream>>>(
        {static_cast<const T*>(matrix), batch_stride, row_stride, column_stride}, static_cast<T*>(vector),
        {batch, channels}, fold);
  });
}

cudaError_t triu_unvec_launch(Element element, const void* vector, std::int64_t batch_stride,
                              std::int64_t element_stride, void* matrix, std::int64_t batch, std::int32_t channels,
                              bool mirror, cudaStream_t stream) {
  return with_element_type(element, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    triu_unvec_kernel<T><<<triangle_grid(batch, channels), dim3(kTileSide, kRowsInFlight), 0, stream>>>(
        {static_cast<const T*>(vector), batch_stride, element_stride}, static_cast<T*>(matrix), {batch, channels},
        mirror);
  });
}

cudaError_t triangle_probe() {
  cudaFuncAttributes attributes;
  const cudaError_t error = cudaFuncGetAttributes(&attributes, triu_vec_kernel<float>);
  cudaGetLastError();  // a later launch is not to be taken for a failure that is reported here
  return error;
}

}  // namespace gcp_kernels
