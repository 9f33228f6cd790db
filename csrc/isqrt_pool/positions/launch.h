// What forward.cu and backward.cu offer the host entry: launches on raw pointers. No torch header, no kernel.
#pragma once

#include <cuda_runtime_api.h>

#include "isqrt_pool/positions/arguments.h"

namespace gcp_kernels {

// As in isqrt_pool/launch.h.
cudaError_t isqrt_pool_positions_forward_launch(const PositionsForwardArguments& arguments, unsigned ctas,
                                                cudaStream_t stream);
cudaError_t isqrt_pool_positions_backward_launch(const PositionsBackwardArguments& arguments, unsigned ctas,
                                                 cudaStream_t stream);

}  // namespace gcp_kernels
