// The launch of isqrt_forward.cuh.
#include "kernels/isqrt_forward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_forward_launch(const ForwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  return pooling_launch(isqrt_forward_kernel<false>, isqrt_forward_kernel<true>, arguments, ctas, stream);
}

}  // namespace gcp_kernels
