// The launches of covariance.cuh.
#include "kernels/covariance.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t covariance_forward_launch(const CovarianceArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const auto kernel =
      kernel_for(arguments.layout, [](auto form) { return covariance_forward_kernel<decltype(form)::value>; });
  return pooling_launch(kernel, arguments, ctas, stream);
}

cudaError_t covariance_backward_launch(const CovarianceBackwardArguments& arguments, unsigned ctas,
                                       cudaStream_t stream) {
  const auto kernel =
      kernel_for(arguments.layout, [](auto form) { return covariance_backward_kernel<decltype(form)::value>; });
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
