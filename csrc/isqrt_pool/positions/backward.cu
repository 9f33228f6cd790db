// The launch of backward.cuh.
#include "device/launch.cuh"
#include "isqrt_pool/positions/backward.cuh"
#include "isqrt_pool/positions/launch.h"

namespace gcp_kernels {

cudaError_t isqrt_pool_positions_backward_launch(const PositionsBackwardArguments& arguments, unsigned ctas,
                                                 cudaStream_t stream) {
  const auto kernel = with_form(arguments.layout.form(), [&](auto form) {
    constexpr Form kForm = decltype(form)::value;
    auto* const fast = isqrt_pool_positions_backward_kernel<kForm, 1>;
    // As in isqrt_pool/backward.cu: in "high" these would take more memory than any multiprocessor has.
    if constexpr (kForm == Form::kResident) {
      return arguments.layout.planes() == 1 ? fast : nullptr;
    } else {
      return arguments.layout.planes() == 1 ? fast : isqrt_pool_positions_backward_kernel<kForm, 2>;
    }
  });
  if (kernel == nullptr) return cudaErrorInvalidDeviceFunction;
  return launch_pooling(kernel, arguments, ctas, stream);
}

}  // namespace gcp_kernels
