// The launch of forward.cuh.
#include "device/launch.cuh"
#include "isqrt_pool/positions/forward.cuh"
#include "isqrt_pool/positions/launch.h"

namespace gcp_kernels {

cudaError_t isqrt_pool_positions_forward_launch(const PositionsForwardArguments& arguments, unsigned ctas,
                                                cudaStream_t stream) {
  const auto kernel = with_form(arguments.layout.form(), [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    return arguments.layout.planes() == 1 ? isqrt_pool_positions_forward_kernel<kForm, 1>
                                          : isqrt_pool_positions_forward_kernel<kForm, 2>;
  });
  return launch_pooling(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
