// The launches of covariance.cuh.
#include "kernels/covariance.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t covariance_forward_launch(const CovarianceArguments& arguments, unsigned ctas, cudaStream_t stream) {
  const auto kernel = arguments.layout.streams() ? covariance_forward_kernel<true> : covariance_forward_kernel<false>;
  return pooling_launch(kernel, arguments, ctas, stream);
}

cudaError_t covariance_backward_launch(const CovarianceBackwardArguments& arguments, unsigned ctas,
                                       cudaStream_t stream) {
  const auto kernel = arguments.layout.streams() ? covariance_backward_kernel<true> : covariance_backward_kernel<false>;
  return pooling_launch(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
