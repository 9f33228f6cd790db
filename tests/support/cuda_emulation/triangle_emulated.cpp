// C entries that run the kernels of csrc/triangle/triangle.cuh under emulation, for ctypes.
#include <algorithm>

#include "emulation.h"
#include "triangle/triangle.cuh"

namespace {

// Calls `run` with a null pointer of the element's type.
template <typename Run>
int with_element_type(int element, Run run) {
  switch (element) {
    case 0:
      return run(static_cast<__half*>(nullptr));
    case 1:
      return run(static_cast<__nv_bfloat16*>(nullptr));
    case 2:
      return run(static_cast<float*>(nullptr));
    case 3:
      return run(static_cast<double*>(nullptr));
    default:
      return -1;
  }
}

}  // namespace

extern "C" int triu_vec_emulated(int element, const void* matrix, std::int64_t batch_stride, std::int64_t row_stride,
                                 std::int64_t column_stride, void* vector, std::int64_t batch, std::int32_t channels,
                                 int fold, unsigned grid_x, unsigned grid_y, int reversed) {
  return with_element_type(element, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return cuda_emulation::launch(
        {grid_x, grid_y, 1}, {gcp_kernels::kTileSide, gcp_kernels::kRowsInFlight, 1}, reversed, [&] {
          gcp_kernels::triu_vec_kernel<T>({static_cast<const T*>(matrix), batch_stride, row_stride, column_stride},
                                          static_cast<T*>(vector), {batch, channels}, fold);
        });
  });
}

extern "C" int triu_unvec_emulated(int element, const void* vector, std::int64_t batch_stride,
                                   std::int64_t element_stride, void* matrix, std::int64_t batch, std::int32_t channels,
                                   int mirror, unsigned grid_x, unsigned grid_y, int reversed) {
  return with_element_type(element, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    return cuda_emulation::launch(
        {grid_x, grid_y, 1}, {gcp_kernels::kTileSide, gcp_kernels::kRowsInFlight, 1}, reversed, [&] {
          gcp_kernels::triu_unvec_kernel<T>({static_cast<const T*>(vector), batch_stride, element_stride},
                                            static_cast<T*>(matrix), {batch, channels}, mirror);
        });
  });
}
