// The launch of isqrt_forward.cuh.
#include "kernels/isqrt_forward.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t isqrt_forward_launch(const ForwardArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const auto kernel = kernel_for(arguments.layout, [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    return arguments.layout.planes == 1 ? isqrt_forward_kernel<kForm, 1> : isqrt_forward_kernel<kForm, 2>;
  });
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
