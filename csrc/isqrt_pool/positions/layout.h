// Shared memory and slabs of a CTA that iterates on the side of the positions: its matrices are (M, M), and beside them
// features pass through a panel of block rows of channels, however many there are.
#pragma once

#include <cstdint>

#include "policy.h"

namespace gcp_kernels {

constexpr int kMostIteratedPositions = 256;
constexpr int kMostPooledChannels = 8192;  // and the squares of them are an int's
constexpr int kLeastWarps = 8;             // most of the work is a product for each block row of channels
constexpr int kReservedBytes = 1024;       // of shared memory, for each CTA beyond the first: the driver's
constexpr int kMostColumns = 8;            // block columns of a product with features that a warp sums at a time

// W, V and Z; with their tangents. Rests of tangents, as on the side of the channels, would change nothing: K has no
// null space but one vector, which is taken out of it.
constexpr Pass kPositionsForwardPass{3, 3, 0};
constexpr Pass kPositionsBackwardPass{6, 6, 0};

// Block columns of a matrix of positions, at most.
GCP_HOST_DEVICE constexpr int most_blocks(Form form) {
  return form == Form::kSmall ? 4 : form == Form::kMiddle ? 8 : kMostIteratedPositions / 16;
}

struct PositionsLayout {
  Layout matrices;     // of K and what is made of it
  int channel_blocks;  // ceil(C / 16)
  int panel_offset;    // where the panel starts while the factor q is read
  bool backward;
  int rings = 0;  // forward, through which as many warps store the result
  int rings_offset = 0;

  GCP_HOST_DEVICE constexpr bool fits() const { return matrices.fits(); }
  GCP_HOST_DEVICE constexpr int blocks() const { return matrices.blocks; }
  GCP_HOST_DEVICE constexpr Form form() const { return matrices.form(); }
  GCP_HOST_DEVICE constexpr int planes() const { return matrices.planes; }
  // A block row of features in all its planes.
  GCP_HOST_DEVICE constexpr int row_bytes() const { return blocks() * planes() * kHalfBlockBytes; }
  // What may be overwritten where no matrix is in use, and while the factor is.
  GCP_HOST_DEVICE constexpr int room() const { return matrices.room(); }
  GCP_HOST_DEVICE constexpr int panel_end() const { return rings_offset > panel_offset ? rings_offset : room(); }
  GCP_HOST_DEVICE constexpr int panel_rows() const { return (panel_end() - panel_offset) / row_bytes(); }
  // Whether the features that K was made of are still there when the factor is.
  GCP_HOST_DEVICE constexpr bool keeps_features() const {
    return panel_offset >= matrices.ring_end() && panel_rows() >= channel_blocks;
  }
  GCP_HOST_DEVICE constexpr int shared_bytes() const { return matrices.shared_bytes(); }

  // Groups of block columns of a product with features, a warp for each group of a block row.
  GCP_HOST_DEVICE constexpr int groups() const { return ceil_divide(blocks(), kMostColumns); }
  GCP_HOST_DEVICE constexpr int group_columns() const { return ceil_divide(blocks(), groups()); }
  constexpr int warps() const {
    const int tiles = warp_tiles(matrices);
    return tiles > kLeastWarps ? tiles : kLeastWarps;
  }
  // Block rows of channels whose groups the warps take at a time.
  GCP_HOST_DEVICE constexpr int rows_of(int warps) const { return warps / groups(); }

  // Behind the streamed planes of all CTAs each has K in float32, backward its direction too; then z q, or H in two
  // planes; then z itself, backward split, where it is needed again and not kept on chip.
  GCP_HOST_DEVICE constexpr std::int64_t gram_bytes() const { return std::int64_t{2} * matrices.plane_bytes(); }
  GCP_HOST_DEVICE constexpr std::int64_t rows_plane_bytes() const {
    return std::int64_t{channel_blocks} * blocks() * kHalfBlockBytes;
  }
  GCP_HOST_DEVICE constexpr std::int64_t rows_offset() const { return (backward ? 2 : 1) * gram_bytes(); }
  GCP_HOST_DEVICE constexpr int rows_planes() const { return backward ? 2 : planes(); }
  GCP_HOST_DEVICE constexpr std::int64_t features_offset() const {
    return rows_offset() + rows_planes() * rows_plane_bytes();
  }
  GCP_HOST_DEVICE constexpr std::int64_t extra_bytes() const {
    return features_offset() + (!backward && keeps_features() ? 0 : rows_planes() * rows_plane_bytes());
  }
  GCP_HOST_DEVICE constexpr std::int64_t extra_of_cta(std::int64_t ctas, std::int64_t cta) const {
    return ctas * matrices.slab_bytes() + cta * extra_bytes();
  }
  GCP_HOST_DEVICE constexpr std::int64_t slab_bytes() const { return matrices.slab_bytes() + extra_bytes(); }
};

// Fewer warps than so many store the result only where there is no room for their rings.
constexpr int enough_rings(int warps) { return ceil_divide(3 * warps, 4); }

// Of the room behind the factor, `bytes`, what the panel leaves to rings: of all numbers of them that are enough the
// largest with which features pass in the fewest parts. Fewer where there is no room for enough; 0 where for none.
constexpr int rings_beside_panel(int bytes, int row_bytes, int rows, int warps) {
  const int room = (bytes - row_bytes) / kRingBytes, most = room < warps ? room : warps;
  const int least = most < enough_rings(warps) ? most : enough_rings(warps);
  int best = 0, fewest = rows + 1;
  for (int rings = most; rings >= least && rings > 0; --rings) {
    const int parts = ceil_divide(rows, (bytes - rings * kRingBytes) / row_bytes);
    if (parts < fewest) {
      fewest = parts;
      best = rings;
    }
  }
  return best;
}

// The layout for (C, M) that fits in `shared_limit` bytes: as many matrices on chip as there is room for, then as many
// rows of the panel, but of small matrices no more than half of the memory, for two CTAs; `matrices.resident` is 0
// where none fits.
constexpr PositionsLayout positions_layout(int channels, int positions, int planes, bool backward, int shared_limit) {
  PositionsLayout layout{
      layout_for(positions, planes, backward ? kPositionsBackwardPass : kPositionsForwardPass, shared_limit),
      ceil_divide(channels, 16), 0, backward};
  if (layout.matrices.resident == 0) return layout;
  const int row = layout.row_bytes(), all = layout.channel_blocks * row, ring_end = layout.matrices.ring_end();
  layout.matrices.least_room = 0;
  const int beside_room = layout.matrices.shared_bytes() - ring_end;
  const int half = (shared_limit - kReservedBytes) / 2 - beside_room;
  const int most = layout.blocks() <= kMostColumns && ring_end < half ? half : shared_limit - beside_room;
  const int limit = most / kRingRowBytes * kRingRowBytes;
  if (backward) {
    // The panel has z and H, or z split, which is no more, and is not in use while there is a factor.
    layout.matrices.least_room = 2 * all < most ? 2 * all : limit;
    if (layout.room() < 2 * row) layout.matrices.resident = 0;
    return layout;
  }
  const int factor = planes * layout.matrices.plane_bytes(), warps = layout.warps();
  // Where features stay, what the matrices leave beside the factor may be enough for all rings.
  const bool beside_factor = ring_end - factor >= warps * kRingBytes;
  if (ring_end + all + (beside_factor ? 0 : enough_rings(warps) * kRingBytes) <= most) {
    const int room = (most - ring_end - all) / kRingBytes;
    layout.panel_offset = ring_end;
    layout.rings = beside_factor || room > warps ? warps : room;
    layout.rings_offset = beside_factor ? factor : ring_end + all;
    layout.matrices.least_room = ring_end + all + (beside_factor ? 0 : layout.rings * kRingBytes);
    return layout;
  }
  const int wanted = factor + all + warps * kRingBytes;
  layout.matrices.least_room = wanted < most ? wanted : limit;
  layout.panel_offset = factor;
  layout.rings = rings_beside_panel(layout.room() - factor, row, layout.channel_blocks, warps);
  layout.rings_offset = layout.room() - layout.rings * kRingBytes;
  if (layout.rings == 0) layout.matrices.resident = 0;
  return layout;
}

}  // namespace gcp_kernels
