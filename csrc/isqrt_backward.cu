// The launch of isqrt_backward.cuh.
#include "kernels/isqrt_backward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_backward_launch(const BackwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  return pooling_launch(isqrt_backward_kernel<false>, isqrt_backward_kernel<true>, arguments, ctas, stream);
}

}  // namespace gcp_kernels
