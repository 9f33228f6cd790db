#include "isqrt_pool/positions/layout_entry.h"

#include <sstream>

#include "check.h"
#include "policy_entry.h"

namespace gcp_kernels {
namespace {

std::string why_too_large(int positions, int planes, int64_t shared_limit) {
  std::ostringstream message;
  message << "M = " << positions << " at precision=" << (planes == 2 ? "'high'" : "'fast'") << " does not fit in the "
          << shared_limit << " bytes of shared memory that a block of this GPU has";
  return message.str();
}

}  // namespace

PositionsLayout positions_layout_on(const torch::stable::Tensor& x, int planes, bool backward,
                                    std::optional<int64_t> shared_limit, const char* operation) {
  const int limit = static_cast<int>(shared_limit_on(x, shared_limit, operation));
  const int channels = static_cast<int>(x.size(1)), positions = static_cast<int>(x.size(2));
  const PositionsLayout layout = positions_layout(channels, positions, planes, backward, limit);
  if (!layout.fits()) check(false, operation, why_too_large(positions, planes, limit));
  return layout;
}

std::tuple<int64_t, int64_t, int64_t> positions_pooling_layout(int64_t channels, int64_t positions, int64_t planes,
                                                               bool backward, int64_t shared_limit) {
  const int checked = checked_planes(planes, "positions_pooling_layout");
  const PositionsLayout layout = positions_layout(static_cast<int>(channels), static_cast<int>(positions), checked,
                                                  backward, static_cast<int>(shared_limit));
  return {layout.matrices.resident, layout.matrices.matrices, layout.shared_bytes()};
}

std::string positions_pooling_error(int64_t channels, int64_t positions, int64_t planes, int64_t shared_limit) {
  std::ostringstream message;
  if (channels > kMostPooledChannels) {
    message << "it supports up to " << kMostPooledChannels << " channels, got " << channels;
    return message.str();
  }
  if (positions > kMostIteratedPositions) {
    message << "it supports up to " << kMostChannels << " channels or up to " << kMostIteratedPositions
            << " positions, got " << channels << " and " << positions;
    return message.str();
  }
  const int c = static_cast<int>(channels), m = static_cast<int>(positions), limit = static_cast<int>(shared_limit);
  const int checked = checked_planes(planes, "positions_pooling_error");
  for (const bool backward : {false, true}) {
    if (!positions_layout(c, m, checked, backward, limit).fits()) return why_too_large(m, checked, shared_limit);
  }
  return "";
}

}  // namespace gcp_kernels
