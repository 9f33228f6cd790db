// The launch of isqrt_backward.cuh.
#include "kernels/isqrt_backward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_backward_launch(const BackwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const bool streamed = arguments.layout.streams(), fast = arguments.layout.planes == 1;
  const auto kernel = streamed ? (fast ? isqrt_backward_kernel<true, 1> : isqrt_backward_kernel<true, 2>)
                               : (fast ? isqrt_backward_kernel<false, 1> : isqrt_backward_kernel<false, 2>);
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
