// The launches of forward.cuh and backward.cuh.
#include "covariance_pool/backward.cuh"
#include "covariance_pool/forward.cuh"
#include "covariance_pool/launch.h"
#include "device/launch.cuh"

namespace gcp_kernels {

cudaError_t covariance_pool_forward_launch(const CovariancePoolForwardArguments& arguments, unsigned ctas,
                                           cudaStream_t stream) {
  const auto kernel = with_form(arguments.layout.form(),
                                [](auto form) { return covariance_pool_forward_kernel<decltype(form)::value>; });
  return launch_pooling(kernel, arguments, ctas, stream);
}

cudaError_t covariance_pool_backward_launch(const CovariancePoolBackwardArguments& arguments, unsigned ctas,
                                            cudaStream_t stream) {
  const auto kernel = with_form(arguments.layout.form(),
                                [](auto form) { return covariance_pool_backward_kernel<decltype(form)::value>; });
  return launch_pooling(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
