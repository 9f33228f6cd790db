// How torch is asked for its current CUDA stream, where the torch in this process has CUDA. No torch header.
#pragma once

#include <cstdint>

namespace gcp_kernels {

// (device, where to put the stream) -> 0, or an error of torch.
using CurrentStream = std::int32_t (*)(std::int32_t, void**);

// torch's own function, looked for once; null where this process has no CUDA build of torch.
CurrentStream find_current_stream();

}  // namespace gcp_kernels
