// The launch of isqrt_forward.cuh.
#include "kernels/isqrt_forward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_forward_launch(const ForwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const bool streamed = arguments.layout.streams(), fast = arguments.layout.planes == 1;
  const auto kernel = streamed ? (fast ? isqrt_forward_kernel<true, 1> : isqrt_forward_kernel<true, 2>)
                               : (fast ? isqrt_forward_kernel<false, 1> : isqrt_forward_kernel<false, 2>);
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
