// The launches of covariance.cuh.
#include "kernels/covariance.cuh"
#include "pooling_launch.cuh"

namespace gcp_kernels {

cudaError_t covariance_forward_launch(const CovarianceArguments& arguments, unsigned ctas, cudaStream_t stream) {
  return pooling_launch(covariance_forward_kernel<false>, covariance_forward_kernel<true>, arguments, ctas, stream);
}

cudaError_t covariance_backward_launch(const CovarianceBackwardArguments& arguments, unsigned ctas,
                                       cudaStream_t stream) {
  return pooling_launch(covariance_backward_kernel<false>, covariance_backward_kernel<true>, arguments, ctas, stream);
}

}  // namespace gcp_kernels
