// How every pooling kernel is launched: a warp for each tile of a matrix, and the shared memory of its layout.
#pragma once

#include "kernels/symmetric.cuh"
#include "pooling.h"

namespace gcp_kernels {

template <typename Arguments>
cudaError_t pooling_launch(void (*kernel)(Arguments), const Arguments& arguments, unsigned ctas, cudaStream_t stream) {
  const Layout& layout = arguments.layout;
  // More than 48 KB must be asked for, of each device anew.
  const cudaError_t error =
      cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, layout.shared_bytes());
  if (error != cudaSuccess) return error;
  kernel<<<ctas, warp_tiles(layout.blocks) * kWarpSize, layout.shared_bytes(), stream>>>(arguments);
  return cudaGetLastError();
}

}  // namespace gcp_kernels
