// The launch of isqrt_backward.cuh.
#include "kernels/isqrt_backward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_backward_launch(const BackwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const auto kernel = kernel_for(arguments.layout, [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    return arguments.layout.planes == 1 ? isqrt_backward_kernel<kForm, 1> : isqrt_backward_kernel<kForm, 2>;
  });
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
