// Shared memory and slabs of a CTA, as plain arithmetic for host and device: which matrices are resident, where
// everything is, and how much of it there is.
#pragma once

#include <cstdint>

#ifdef __CUDACC__
#define GCP_HOST_DEVICE __host__ __device__
#else
#define GCP_HOST_DEVICE
#endif

namespace gcp_kernels {

constexpr int kMostChannels = 256;
constexpr int kChannelArrays = 5;  // of the features: see kernels/features.cuh
constexpr int kMostWarps = 16;
constexpr int kMostThreads = 32 * kMostWarps;
constexpr int kMostRingColumns = 8;   // two streams of four stages
constexpr int kHalfBlockBytes = 512;  // 16x16 halves

// Matrices that a sample takes: W, V and Y; each with its tangent; features and float32 totals, or a split derivative.
constexpr int kForwardMatrices = 3;
constexpr int kBackwardMatrices = 6;
constexpr int kCovarianceMatrices = 3;

struct Layout {
  int blocks;        // 16-wide block rows of a matrix: ceil(C / 16)
  int planes;        // of halves for each matrix: 1 "fast", 2 "high"
  int matrices;      // of the kernel: kForwardMatrices, and so on
  int resident;      // of these in shared memory; the others live in the CTA's slab
  int ring_columns;  // block columns that the ring for streaming holds; 0 where all are resident

  GCP_HOST_DEVICE constexpr bool streams() const { return resident < matrices; }
  // At least two block columns, so that the first matrix can stage features of the smallest C.
  GCP_HOST_DEVICE constexpr int plane_blocks() const {
    const int triangle = blocks * (blocks + 1) / 2;
    return triangle > 2 * blocks ? triangle : 2 * blocks;
  }
  GCP_HOST_DEVICE constexpr int plane_bytes() const { return plane_blocks() * kHalfBlockBytes; }
  GCP_HOST_DEVICE constexpr int channel_offset(int array) const { return array * blocks * 16 * 4 + ring_end(); }
  GCP_HOST_DEVICE constexpr int partial_offset() const { return channel_offset(kChannelArrays); }
  GCP_HOST_DEVICE constexpr int ring_offset() const { return resident * planes * plane_bytes(); }
  GCP_HOST_DEVICE constexpr int ring_end() const { return ring_offset() + ring_columns * blocks * kHalfBlockBytes; }
  GCP_HOST_DEVICE constexpr int scalar_offset() const { return partial_offset() + kMostWarps * 4; }
  GCP_HOST_DEVICE constexpr int round_offset() const { return scalar_offset() + 4; }
  GCP_HOST_DEVICE constexpr int tile_offset() const { return round_offset() + 4; }
  GCP_HOST_DEVICE constexpr int shared_bytes() const { return tile_offset() + kMostWarps * 4; }
  GCP_HOST_DEVICE constexpr std::int64_t slab_bytes() const {
    return std::int64_t{1} * (matrices - resident) * planes * plane_bytes();
  }
};

// The least that any layout takes: one resident matrix, and a ring for two streams or one ahead.
constexpr Layout least_layout(int channels, int planes, int matrices) {
  return {(channels + 15) / 16, planes, matrices, 1, 2};
}

// The layout with the most resident matrices that fits in `shared_limit` bytes, and with the largest ring beside them;
// `resident` is 0 where none fits. One streamed operand wants a ring of two columns at least, two of them as many.
constexpr Layout layout_for(int channels, int planes, int matrices, int shared_limit) {
  const Layout layout{(channels + 15) / 16, planes, matrices, 0, 0};
  for (int resident = layout.matrices; resident > 0; --resident) {
    const bool streams = resident < layout.matrices;
    for (int columns = streams ? kMostRingColumns : 0; columns >= (streams ? 2 : 0); --columns) {
      const Layout candidate{layout.blocks, planes, layout.matrices, resident, columns};
      if (candidate.shared_bytes() <= shared_limit) return candidate;
      if (!streams) break;
    }
  }
  return layout;
}

}  // namespace gcp_kernels
