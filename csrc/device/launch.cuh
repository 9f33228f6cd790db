// How every pooling kernel is launched: a warp for each tile of a matrix, and the shared memory of its layout.
#pragma once

#include <cuda_runtime_api.h>

#include "device/primitives.cuh"
#include "policy.h"

namespace gcp_kernels {

constexpr int kSharedWithoutAsking = 48 * 1024;

template <typename Arguments>
cudaError_t launch_pooling(void (*kernel)(Arguments), const Arguments& arguments, unsigned ctas, cudaStream_t stream) {
  const auto& layout = arguments.layout;
  if (layout.shared_bytes() > kSharedWithoutAsking) {
    // Asked of each device, and always for all that there is: what one thread asks for holds for the launches of
    // others.
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
  kernel<<<ctas, layout.warps() * kWarpSize, layout.shared_bytes(), stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace gcp_kernels
