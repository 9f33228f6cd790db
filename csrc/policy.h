// Shared memory and slabs of a CTA, as plain arithmetic for host and device: which matrices are resident, where
// everything is, and how much of it there is.
#pragma once

#include <cstdint>
#include <type_traits>

#include "packed.h"

namespace gcp_kernels {

constexpr int kMostChannels = 256;
constexpr int kMostPositions = 1 << 30;  // what is added to a position stays an int
constexpr int kChannelArrays = 5;        // of the features: see device/features.cuh
constexpr int kMostWarps = 16;
constexpr int kMostThreads = 32 * kMostWarps;
constexpr int kMostRingColumns = 8;   // two streams of four stages
constexpr int kHalfBlockBytes = 512;  // 16x16 halves

// The matrices that a sample takes in one pass, in the order in which they are kept on chip. Those that are no operands
// of products, the last ones, are read and written by the same thread alone.
struct Pass {
  int matrices;
  int operands;
};

constexpr Pass kForwardPass{3, 3};     // W, V and Y
constexpr Pass kCovariancePass{3, 3};  // features, and float32 totals or a split derivative

// W, V and Y with their tangents. In "fast", two tangents also keep their rounding errors.
constexpr Pass backward_pass(int planes) { return planes == 1 ? Pass{8, 6} : Pass{6, 6}; }

// Where the matrices are, and how a product is shared out among warps (symmetric.cuh); kernels are compiled for each.
enum class Form : int {
  kSmall,     // all in shared memory, and so small that in tiles of the usual size a sample would have a single warp
  kResident,  // all in shared memory
  kStreamed,  // some in the slab of the CTA
};

template <Form kForm>
constexpr bool kStreams = kForm == Form::kStreamed;

// run(std::integral_constant<Form, form>): the one place where a form becomes a template argument.
template <typename Run>
auto with_form(Form form, Run run) {
  switch (form) {
    case Form::kSmall:
      return run(std::integral_constant<Form, Form::kSmall>());
    case Form::kResident:
      return run(std::integral_constant<Form, Form::kResident>());
    default:
      return run(std::integral_constant<Form, Form::kStreamed>());
  }
}

constexpr int kSmallBlocks = 4;  // 64 channels, one tile of the usual size

struct Layout {
  int blocks;        // 16-wide block rows of a matrix: ceil(C / 16)
  int planes;        // of halves for each matrix: 1 "fast", 2 "high"
  int matrices;      // of the pass
  int resident;      // of these in shared memory; the others live in the CTA's slab
  int ring_columns;  // block columns that the ring for streaming holds; 0 where all operands are resident

  GCP_HOST_DEVICE constexpr bool streams() const { return resident < matrices; }
  GCP_HOST_DEVICE constexpr Form form() const {
    return streams() ? Form::kStreamed : blocks <= kSmallBlocks ? Form::kSmall : Form::kResident;
  }
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

constexpr int kTileColumns = 2;  // block columns of a warp's tile above the diagonal

// Block rows of a warp's tile, and block columns of one on the diagonal.
GCP_HOST_DEVICE constexpr int tile_rows(Form form) { return form == Form::kSmall ? 2 : 4; }

// Warps that a product takes: one for each tile.
GCP_HOST_DEVICE constexpr int warp_tiles(const Layout& layout) {
  const int rows = tile_rows(layout.form());
  int tiles = ceil_divide(layout.blocks, rows);
  for (int row = rows; row < layout.blocks; row += rows) tiles += ceil_divide(layout.blocks - row, kTileColumns);
  return tiles;
}

// The least that any layout takes: one resident matrix, and a ring for two streams or one ahead.
constexpr Layout least_layout(int channels, int planes, Pass pass) {
  return {(channels + 15) / 16, planes, pass.matrices, 1, 2};
}

// The layout with the most resident matrices that fits in `shared_limit` bytes, and with the largest ring beside them;
// `resident` is 0 where none fits. One streamed operand wants a ring of two columns at least, two of them as many.
constexpr Layout layout_for(int channels, int planes, Pass pass, int shared_limit) {
  const Layout layout{(channels + 15) / 16, planes, pass.matrices, 0, 0};
  for (int resident = pass.matrices; resident > 0; --resident) {
    const bool streams_operands = resident < pass.operands;
    const int least_columns = streams_operands ? 2 : 0;
    for (int columns = streams_operands ? kMostRingColumns : 0; columns >= least_columns; --columns) {
      const Layout candidate{layout.blocks, planes, pass.matrices, resident, columns};
      if (candidate.shared_bytes() <= shared_limit) return candidate;
    }
  }
  return layout;
}

}  // namespace gcp_kernels
