// What isqrt_forward.cu, isqrt_backward.cu and covariance_pool.cu offer the host entries: launches on raw pointers. No
// torch header, no kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "kernels/params.h"

namespace gcp_kernels {

// Each enqueues on `stream` of the current device, never synchronises, and returns the launch's own error. `batch` is
// at least 1, and there is a slab for each of the `ctas`.
cudaError_t isqrt_forward_launch(const ForwardArguments& arguments, unsigned ctas, cudaStream_t stream);
cudaError_t isqrt_backward_launch(const BackwardArguments& arguments, unsigned ctas, cudaStream_t stream);
cudaError_t covariance_forward_launch(const CovarianceArguments& arguments, unsigned ctas, cudaStream_t stream);
cudaError_t covariance_backward_launch(const CovarianceBackwardArguments& arguments, unsigned ctas,
                                       cudaStream_t stream);

}  // namespace gcp_kernels
