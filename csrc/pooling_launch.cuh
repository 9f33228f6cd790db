// How every pooling kernel is launched: a warp for each tile of a matrix, and the shared memory of its layout.
#pragma once

#include <type_traits>

#include "kernels/symmetric.cuh"
#include "pooling.h"

namespace gcp_kernels {

constexpr int kSharedWithoutAsking = 48 * 1024;

// choose(std::integral_constant<Form, layout.form()>), a kernel.
template <typename Choose>
auto kernel_for(const Layout& layout, Choose choose) {
  switch (layout.form()) {
    case Form::kSmall:
      return choose(std::integral_constant<Form, Form::kSmall>());
    case Form::kResident:
      return choose(std::integral_constant<Form, Form::kResident>());
    default:
      return choose(std::integral_constant<Form, Form::kStreamed>());
  }
}

template <typename Arguments>
cudaError_t pooling_launch(void (*kernel)(Arguments), const Arguments& arguments, unsigned ctas, cudaStream_t stream) {
  const Layout& layout = arguments.layout;
  if (layout.shared_bytes() > kSharedWithoutAsking) {
    // Of each device anew, and always for all that there is: what one thread asks for holds for the launches of others.
    int device = 0, limit = 0;
    cudaError_t error = cudaGetDevice(&device);
    if (error == cudaSuccess) {
      error = cudaDeviceGetAttribute(&limit, cudaDevAttrMaxSharedMemoryPerBlockOptin, device);
    }
    if (error == cudaSuccess) {
      error = cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, limit);
    }
    if (error != cudaSuccess) {
      cudaGetLastError();  // else the next launch would be taken for the one that failed
      return error;
    }
  }
  kernel<<<ctas, warp_tiles(layout) * kWarpSize, layout.shared_bytes(), stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace gcp_kernels
