// Host entries that say what a sample takes where it is iterated on the side of the positions.
#pragma once

#include <torch/csrc/stable/tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <tuple>

#include "isqrt_pool/positions/layout.h"

namespace gcp_kernels {

// As pooling_layout(), on this side.
std::tuple<int64_t, int64_t, int64_t> positions_pooling_layout(int64_t channels, int64_t positions, int64_t planes,
                                                               bool backward, int64_t shared_limit);

// As pooling_error(), on this side: also where there are too many channels or positions.
std::string positions_pooling_error(int64_t channels, int64_t positions, int64_t planes, int64_t shared_limit);

// As layout_on(), on this side.
PositionsLayout positions_layout_on(const torch::stable::Tensor& x, int planes, bool backward,
                                    std::optional<int64_t> shared_limit, const char* operation);

}  // namespace gcp_kernels
