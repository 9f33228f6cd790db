// What forward.cu and backward.cu offer the host entry of iSQRT-COV pooling: launches on raw pointers. No torch header,
// no kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "isqrt_pool/arguments.h"

namespace gcp_kernels {

// Each enqueues on `stream` of the current device, never synchronises, and returns the launch's own error. `batch` is
// at least 1, and there is a slab for each of the `ctas`.
cudaError_t isqrt_pool_forward_launch(const IsqrtPoolForwardArguments& arguments, unsigned ctas, cudaStream_t stream);
cudaError_t isqrt_pool_backward_launch(const IsqrtPoolBackwardArguments& arguments, unsigned ctas, cudaStream_t stream);

}  // namespace gcp_kernels
