// How a product is shared out among warps: plain arithmetic for host and device.
//
// Each warp owns a tile of the result: some block rows by two block columns above the diagonal, or the upper half of a
// square on it. At the edge of a matrix a tile has fewer columns, and no product is computed that nobody owns.
//
// A multiprocessor has four quarters, each with tensor cores of its own, and warp w is on quarter w % 4: a product
// takes as long as the quarter with the most blocks. So tiles are dealt out, the largest first, each to the quarter
// with the least to do.
#pragma once

#include "packed.h"

namespace gcp_kernels {

constexpr int kMostBlocks = 16;  // block rows of a matrix
constexpr int kMostWarps = 16;
constexpr int kTileColumns = 2;  // block columns of a tile above the diagonal
constexpr int kQuarters = 4;

struct TileBlocks {
  unsigned char row, column;  // the first block row, and the first block column; the same on the diagonal
  unsigned char owned;        // blocks in the matrix, column after column; 0 for a warp without a tile
};

struct Tiling {
  TileBlocks tile[kMostWarps];  // of each warp
  int tiles;                    // that there are, all dealt out if there are warps enough
  int warps;                    // up to the last one with a tile
  int busiest;                  // blocks of the quarter with the most
};

// Calls visit(tile) for all tiles of so many block rows each.
template <typename Visit>
constexpr void for_each_tile(int blocks, int rows, Visit visit) {
  for (int row = 0; row < blocks; row += rows) {
    const int side = blocks - row < rows ? blocks - row : rows;
    visit(TileBlocks{static_cast<unsigned char>(row), static_cast<unsigned char>(row),
                     static_cast<unsigned char>(triangle_number(side))});
    for (int column = row + rows; column < blocks; column += kTileColumns) {
      const int columns = blocks - column < kTileColumns ? 1 : kTileColumns;
      visit(TileBlocks{static_cast<unsigned char>(row), static_cast<unsigned char>(column),
                       static_cast<unsigned char>(rows * columns)});
    }
  }
}

constexpr Tiling tiling_of(int blocks, int rows) {
  Tiling tiling{};
  int load[kQuarters] = {}, dealt[kQuarters] = {};
  for (int size = kMostBlocks; size > 0; --size) {
    for_each_tile(blocks, rows, [&](TileBlocks tile) {
      if (tile.owned != size) return;
      int least = 0;
      for (int quarter = 1; quarter < kQuarters; ++quarter) {
        const bool less = load[quarter] < load[least];
        if (less || (load[quarter] == load[least] && dealt[quarter] < dealt[least])) least = quarter;
      }
      const int warp = dealt[least]++ * kQuarters + least;
      load[least] += size;
      ++tiling.tiles;
      if (warp < kMostWarps) tiling.tile[warp] = tile;
      if (warp >= tiling.warps) tiling.warps = warp + 1;
      if (load[least] > tiling.busiest) tiling.busiest = load[least];
    });
  }
  return tiling;
}

// The tilings of all numbers of blocks, in tiles of kRows block rows.
struct Tilings {
  Tiling of[kMostBlocks + 1];
};

constexpr Tilings tilings_of(int rows) {
  Tilings tilings{};
  for (int blocks = 0; blocks <= kMostBlocks; ++blocks) tilings.of[blocks] = tiling_of(blocks, rows);
  return tilings;
}

template <int kRows>
constexpr Tilings kTilings = tilings_of(kRows);

// Block rows of a tile. A small sample takes small tiles, since a warp waits for every load of its own: at 4 block rows
// it has 8 warps instead of 3, at 8 it has 10 instead of 4. A large one takes large tiles, which load less for each
// product; of three block rows the busiest quarter would have 21 blocks instead of 24 at 12 block rows, one less than
// here at 10, and elsewhere as many, but for a sixth more loads.
GCP_HOST_DEVICE constexpr int tile_rows_of(int blocks) { return blocks <= 4 ? 1 : blocks <= 8 ? 2 : 4; }

}  // namespace gcp_kernels
