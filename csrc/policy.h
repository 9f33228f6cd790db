// Shared memory and slabs of a CTA, as plain arithmetic for host and device: which matrices are resident, where
// everything is, and how much of it there is.
#pragma once

#include <cstdint>
#include <type_traits>

#include "packed.h"
#include "tiles.h"

namespace gcp_kernels {

constexpr int kMostChannels = 16 * kMostBlocks;
constexpr int kMostPositions = 1 << 30;  // what is added to a position stays an int
constexpr int kChannelArrays = 5;        // of the features: see device/features.cuh
constexpr int kMostThreads = 32 * kMostWarps;
constexpr int kMostRingColumns = 8;   // two streams of four stages
constexpr int kHalfBlockBytes = 512;  // 16x16 halves
// Of a ring through which a warp stores 16 rows of a result: two sectors of memory of each row.
constexpr int kRingRowBytes = 64;
constexpr int kRingBytes = 16 * kRingRowBytes;

// The matrices that a sample takes in one pass, in the order in which they are kept on chip. Those that are no operands
// of products, the last ones, are read and written by the same thread alone. Planes that are kept in the slab, whatever
// is on chip, are for what is needed once more at the end.
struct Pass {
  int matrices;
  int operands;
  int kept_planes = 0;
};

constexpr Pass kForwardPass{3, 3};     // W, V and Y
constexpr Pass kCovariancePass{3, 3};  // features, and float32 totals or a split derivative
// So where matrices are streamed there is a ring of columns, in which rings of results find room (for_each_block_row).
static_assert(kForwardPass.matrices == kForwardPass.operands && kCovariancePass.matrices == kCovariancePass.operands);

// W, V and Y with their tangents, and A in float32. In "fast", two tangents also keep their rounding errors.
constexpr Pass backward_pass(int planes) { return planes == 1 ? Pass{8, 6, 2} : Pass{6, 6, 2}; }

// Where the matrices are, and how a product is shared out among warps (symmetric.cuh); kernels are compiled for each.
enum class Form : int {
  kSmall,     // all in shared memory, up to 4 blocks: in tiles of one block row
  kMiddle,    // all in shared memory, up to 8 blocks: in tiles of two
  kResident,  // all in shared memory
  kStreamed,  // some in the slab of the CTA
};

template <Form kForm>
constexpr bool kStreams = kForm == Form::kStreamed;

// run(std::integral_constant<Form, form>): the one place where a form becomes a template argument.
template <typename Run>
constexpr auto with_form(Form form, Run run) {
  switch (form) {
    case Form::kSmall:
      return run(std::integral_constant<Form, Form::kSmall>());
    case Form::kMiddle:
      return run(std::integral_constant<Form, Form::kMiddle>());
    case Form::kResident:
      return run(std::integral_constant<Form, Form::kResident>());
    default:
      return run(std::integral_constant<Form, Form::kStreamed>());
  }
}

// Block rows of a warp's tile, and block columns of one on the diagonal.
GCP_HOST_DEVICE constexpr int tile_rows(Form form) { return form == Form::kSmall ? 1 : form == Form::kMiddle ? 2 : 4; }

// The form for so many blocks that are all in shared memory.
GCP_HOST_DEVICE constexpr Form resident_form(int blocks) {
  switch (tile_rows_of(blocks)) {
    case tile_rows(Form::kSmall):
      return Form::kSmall;
    case tile_rows(Form::kMiddle):
      return Form::kMiddle;
    default:
      return Form::kResident;
  }
}

// A part of shared memory, in bytes from its start.
struct Room {
  int begin, end;
  GCP_HOST_DEVICE constexpr int bytes() const { return end - begin; }
};

// Where everything is resident there is room for so many block columns of features in one plane: 14x14 positions.
constexpr int kLeastFeatureColumns = 13;

struct Layout {
  int blocks;           // 16-wide block rows of a matrix: ceil(C / 16)
  int planes;           // of halves for each matrix: 1 "fast", 2 "high"
  int matrices;         // of the pass
  int resident;         // of these in shared memory; the others live in the CTA's slab
  int ring_columns;     // block columns that the ring for streaming holds; 0 where all operands are resident
  int least_room = 0;   // bytes for features, whatever the matrices take
  int kept_planes = 0;  // of the pass

  GCP_HOST_DEVICE constexpr bool fits() const { return resident > 0; }
  GCP_HOST_DEVICE constexpr bool streams() const { return resident < matrices; }
  GCP_HOST_DEVICE constexpr Form form() const { return streams() ? Form::kStreamed : resident_form(blocks); }
  // At least two block columns, so that the first matrix can stage features of the smallest C, and so that a plane has
  // room for a ring of each block row; so has that of the streamed columns, which are two at least.
  GCP_HOST_DEVICE constexpr int plane_blocks() const {
    const int triangle = blocks * (blocks + 1) / 2;
    return triangle > 2 * blocks ? triangle : 2 * blocks;
  }
  GCP_HOST_DEVICE constexpr int plane_bytes() const { return plane_blocks() * kHalfBlockBytes; }
  GCP_HOST_DEVICE constexpr int channel_offset(int array) const { return array * blocks * 16 * 4 + room(); }
  GCP_HOST_DEVICE constexpr int partial_offset() const { return channel_offset(kChannelArrays); }
  GCP_HOST_DEVICE constexpr int ring_offset() const { return resident * planes * plane_bytes(); }
  GCP_HOST_DEVICE constexpr int ring_end() const { return ring_offset() + ring_columns * blocks * kHalfBlockBytes; }
  // Where features are staged: in the place of all matrices, and of the ring, while there are none yet; so many bytes
  // from the start ...
  GCP_HOST_DEVICE constexpr int room() const { return ring_end() > least_room ? ring_end() : least_room; }
  // ... before a plane that is kept ...
  GCP_HOST_DEVICE constexpr int room_before(int plane) const {
    const int on_chip = resident * planes;
    return (plane < on_chip ? plane : on_chip) * plane_bytes();
  }
  // ... or beside some planes, before them or behind. Where one of them is in the slab, it needs the ring.
  GCP_HOST_DEVICE constexpr Room room_beside(int plane, int end) const {
    const Room before{0, room_before(plane)};
    const Room behind{end * plane_bytes(), end > resident * planes ? 0 : room()};
    return before.bytes() >= behind.bytes() ? before : behind;
  }
  GCP_HOST_DEVICE constexpr int scalar_offset() const { return partial_offset() + kMostWarps * 4; }
  GCP_HOST_DEVICE constexpr int round_offset() const { return scalar_offset() + 4; }
  GCP_HOST_DEVICE constexpr int tile_offset() const { return round_offset() + 4; }
  GCP_HOST_DEVICE constexpr int shared_bytes() const { return tile_offset() + kMostWarps * 4; }
  constexpr int warps() const;  // that a sample takes; of the host alone, as are tables of constants
  // Of a slab: all of it, and the matrices that are streamed.
  GCP_HOST_DEVICE constexpr std::int64_t slab_bytes() const {
    return streamed_bytes() + std::int64_t{1} * kept_planes * plane_bytes();
  }
  GCP_HOST_DEVICE constexpr std::int64_t streamed_bytes() const {
    return std::int64_t{1} * (matrices - resident) * planes * plane_bytes();
  }
};

// Warps that a product takes: one for each tile, and those without one between them; and, where matrices are streamed,
// one for each block of a column.
constexpr int warp_tiles(const Layout& layout) {
  const int warps =
      with_form(layout.form(), [&](auto form) { return kTilings<tile_rows(form)>.of[layout.blocks].warps; });
  return layout.streams() && warps < layout.blocks ? layout.blocks : warps;
}

constexpr int Layout::warps() const { return warp_tiles(*this); }

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
      const int least_room = resident < pass.matrices ? 0 : kLeastFeatureColumns * layout.blocks * kHalfBlockBytes;
      const Layout candidate{layout.blocks, planes, pass.matrices, resident, columns, least_room, pass.kept_planes};
      if (candidate.shared_bytes() <= shared_limit) return candidate;
    }
  }
  return layout;
}

}  // namespace gcp_kernels
