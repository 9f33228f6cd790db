// How the kernels of csrc/ would be launched: threads, bytes of shared memory, and arguments as hexadecimal bytes.
// Compiled by launch.py for the host. A change of those structures that this does not follow does not compile.
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>

#include "isqrt_pool/arguments.h"
#include "isqrt_pool/positions/arguments.h"
#include "policy.h"

namespace gcp_kernels {
namespace {

// Tensors are told apart by the upper bits of their addresses: regions of memory.py.
template <typename T = void>
T* region(std::uint64_t number) {
  return reinterpret_cast<T*>(number << 36);
}

enum Region : std::uint64_t { kFeatures = 1, kResult, kGradient, kFeatureGradient, kStatistics, kSlabs };

constexpr int kWarp = 32;

// A line: form, planes, threads, bytes of shared memory, block rows of a matrix, and the arguments.
template <typename Arguments>
void print(const char* kernel, const Arguments& arguments, int planes, int blocks) {
  const auto& layout = arguments.layout;
  std::printf("%s %d %d %d %d %d ", kernel, static_cast<int>(layout.form()), planes, layout.warps() * kWarp,
              layout.shared_bytes(), blocks);
  unsigned char bytes[sizeof(Arguments)];
  std::memcpy(bytes, &arguments, sizeof(Arguments));
  for (const unsigned char byte : bytes) std::printf("%02x", byte);
  std::printf("\n");
}

}  // namespace
}  // namespace gcp_kernels

// C, M, N, planes, element, triangle, bytes of shared memory that a CTA may have.
int main(int count, char** values) {
  using namespace gcp_kernels;
  if (count != 8) return 2;
  const int channels = std::atoi(values[1]), positions = std::atoi(values[2]), n_iter = std::atoi(values[3]);
  const int planes = std::atoi(values[4]), limit = std::atoi(values[7]);
  const auto element = static_cast<Element>(std::atoi(values[5]));
  const bool triangle = std::atoi(values[6]) != 0;
  const std::int64_t row = positions, sample = row * channels;
  const std::int64_t columns = triangle ? 0 : 1, rows = triangle ? 1 : channels;
  const std::int64_t result = triangle ? triangle_number(channels) : channels * channels;

  const Features x{region(kFeatures), sample, row, 1, element, channels, positions};
  const SymmetricOutput pooled{region(kResult), element, channels, triangle};
  const SymmetricGradient grad{region(kGradient), result, rows, columns, element, channels, triangle};
  const FeatureGradient grad_x{region(kFeatureGradient), sample, row, 1};
  float* const statistics = region<float>(kStatistics);
  char* const slabs = region<char>(kSlabs);
  bool any = false;

  const Layout forward = layout_for(channels, planes, kForwardPass, limit);
  const Layout backward = layout_for(channels, planes, backward_pass(planes), limit);
  if (channels <= kMostChannels && forward.resident > 0 && backward.resident > 0) {
    print("isqrt_pool_forward_kernel",
          IsqrtPoolForwardArguments{x, pooled, statistics, statistics, slabs, 1, n_iter, forward}, planes,
          forward.blocks);
    print("isqrt_pool_backward_kernel",
          IsqrtPoolBackwardArguments{grad, x, statistics, statistics, grad_x, slabs, 1, n_iter, backward}, planes,
          backward.blocks);
    any = true;
  }
  if (positions <= kMostIteratedPositions && channels <= kMostPooledChannels) {
    const PositionsLayout there = positions_layout(channels, positions, planes, false, limit);
    const PositionsLayout back = positions_layout(channels, positions, planes, true, limit);
    if (there.fits() && back.fits()) {
      print("isqrt_pool_positions_forward_kernel",
            PositionsForwardArguments{x, pooled, statistics, statistics, slabs, 1, n_iter, there}, planes,
            there.blocks());
      print("isqrt_pool_positions_backward_kernel",
            PositionsBackwardArguments{grad, x, statistics, statistics, grad_x, slabs, 1, n_iter, back}, planes,
            back.blocks());
      any = true;
    }
  }
  return any ? 0 : 3;
}
