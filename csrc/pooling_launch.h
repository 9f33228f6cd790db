// How the host entries of both pooling operations launch: CTAs, slabs and the stream.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <optional>

#include "check.h"
#include "policy_entry.h"

namespace gcp_kernels {

// So many CTAs at most find room at once, by their shared memory; one of a layout that streams.
template <typename Layout>
int64_t most_ctas(const Layout& layout, int32_t device, const char* operation) {
  const int64_t multiprocessors = device_attribute(cudaDevAttrMultiProcessorCount, device, operation);
  const int64_t shared = device_attribute(cudaDevAttrMaxSharedMemoryPerMultiprocessor, device, operation);
  const int64_t reserved = device_attribute(cudaDevAttrReservedSharedMemoryPerBlock, device, operation);
  return multiprocessors * std::max<int64_t>(1, shared / (layout.shared_bytes() + reserved));
}

// Launches a CTA for each sample; where slabs are needed, no more than find room at once, which then take several
// samples.
template <typename Arguments>
void pool_on_stream(Arguments arguments, const torch::stable::Tensor& x,
                    cudaError_t (*launch)(const Arguments&, unsigned, cudaStream_t), const char* operation) {
  constexpr int64_t kMostCtas = 2147483647, kMostSlabBytes = int64_t{1} << 32;
  if (arguments.batch == 0) return;
  check(arguments.batch <= kMostCtas, operation, "B must be below 2^31, got ", arguments.batch);
  const int64_t slab = arguments.layout.slab_bytes();
  int64_t ctas = arguments.batch;
  std::optional<torch::stable::Tensor> slabs;
  if (slab > 0) {
    ctas = std::min<int64_t>(ctas, most_ctas(arguments.layout, x.get_device_index(), operation));
    // Kernels count bytes of slabs in 32 bits: enough for 4000 multiprocessors.
    check(ctas * slab < kMostSlabBytes, operation, "slabs of ", slab, " bytes for ", ctas, " blocks exceed 4 GiB");
    // In torch's deterministic mode they are filled with NaN at each call, up to 110 MB on an H100, unless the user has
    // set torch.utils.deterministic.fill_uninitialized_memory to False: the stable ABI does not allocate otherwise.
    const std::array<int64_t, 1> elements{ctas * slab / static_cast<int64_t>(sizeof(float))};
    slabs = torch::stable::new_empty(x, {elements.data(), elements.size()}, torch::headeronly::ScalarType::Float);
    arguments.slabs = static_cast<char*>(slabs->mutable_data_ptr());
  }
  check_launch(launch(arguments, static_cast<unsigned>(ctas), current_stream(x, operation)), operation);
}

}  // namespace gcp_kernels
