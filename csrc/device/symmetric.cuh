// Symmetric matrices in 16x16 blocks of halves, of which only those on and above the diagonal are kept; and their
// products on the tensor cores, of which only those blocks are computed.
//
// Block (i, j), i <= j, is at packed_block(i, j): a block column after the other. Block (j, i) is the same one,
// loaded transposed. For the right operand of U V, block (k, j) of V is needed by the rows of its transpose, which is
// block (j, k) of V itself: so both operands are loaded alike, but for the order of their tiles.
//
// A product stays in registers until everyone has read its operands; then it may overwrite them. Each warp owns a tile
// of the result (tiles.h), or none: then it takes part in barriers alone.
//
// Where a matrix lives is a matter of memory alone: resident in shared memory, or in a slab of global memory that
// belongs to this CTA, from which its block columns are streamed through a ring in shared memory (`Stream`).
#pragma once

#include "device/lifted.cuh"
#include "device/primitives.cuh"
#include "packed.h"
#include "policy.h"
#include "tiles.h"

namespace gcp_kernels {

template <Form kForm>
constexpr int kTileRows = tile_rows(kForm);
// Blocks of a tile on the diagonal, of one above it, and the more of both.
template <Form kForm>
constexpr int kDiagonalSums = triangle_number(kTileRows<kForm>);
template <Form kForm>
constexpr int kRectangleSums = kTileRows<kForm> * kTileColumns;
template <Form kForm>
constexpr int kMostSums = kDiagonalSums<kForm> > kRectangleSums<kForm> ? kDiagonalSums<kForm> : kRectangleSums<kForm>;

// For __launch_bounds__: the threads of the largest sample, and how many CTAs of them should find room on a
// multiprocessor. Each of its quarters has 16384 registers, for a fourth of the warps of a CTA, rounded up.
template <Form kForm>
constexpr int kMostThreadsOf = (kForm == Form::kSmall    ? 8
                                : kForm == Form::kMiddle ? 12
                                                         : kMostWarps) *
                               kWarpSize;
template <Form kForm>
constexpr int kLeastCtasOf = kForm == Form::kSmall    ? 3
                             : kForm == Form::kMiddle ? 2
                                                      : 1;
// The product with the features, at the end of a backward pass, takes more registers than that leaves.
template <Form kForm>
constexpr int kLeastCtasBackward = kForm == Form::kSmall ? 2 : 1;

// What of_warp() looks up: a word for each warp.
struct TileCodes {
  std::uint32_t of[kMostBlocks + 1][kMostWarps];
};

constexpr TileCodes codes_of(const Tilings& tilings) {
  TileCodes codes{};
  for (int blocks = 0; blocks <= kMostBlocks; ++blocks) {
    for (int warp = 0; warp < kMostWarps; ++warp) {
      const TileBlocks tile = tilings.of[blocks].tile[warp];
      codes.of[blocks][warp] = tile.row | tile.column << 8 | tile.owned << 16;
    }
  }
  return codes;
}

template <int kRows>
__constant__ constexpr TileCodes kTileCodes = codes_of(kTilings<kRows>);

// The blocks of the result that this warp owns: one number, kept in shared memory between products, from which the rest
// is computed when it is needed. Beside the sums of a tile every register counts.
template <Form kForm>
struct WarpTile {
  int code;    // by bytes from the lowest: first block row, first block column, blocks owned
  int blocks;  // block rows of the matrix

  __device__ static WarpTile of_warp(SharedAddress tiles, int blocks) {
    return {of_all_lanes(static_cast<int>(load_shared(tiles + warp_of_thread() * 4))), blocks};
  }

  // Done once; every thread reads what its own warp has written, after the next barrier.
  __device__ static void assign(SharedAddress tiles, int blocks) {
    const int warp = warp_of_thread();
    if (lane_of_thread() == 0) store_shared(tiles + warp * 4, kTileCodes<kTileRows<kForm>>.of[blocks][warp]);
  }

  __device__ int row() const { return code & 0xff; }
  __device__ int column() const { return code >> 8 & 0xff; }
  // The blocks are numbered column after column, and this many of the first numbers are those in the matrix.
  __device__ int owned() const { return code >> 16; }
  __device__ bool diagonal() const { return row() == column(); }
  // Whether the edge of the matrix leaves less of it than of others; the same is said of a warp without a tile.
  __device__ bool cut() const { return owned() < (diagonal() ? kDiagonalSums<kForm> : kRectangleSums<kForm>); }

  // The same tile, for the compiler another one: addresses are cheap, registers are not.
  __device__ WarpTile again() const {
    WarpTile tile = *this;
    tile.code = recomputed(code);
    return tile;
  }

  // Block row and column of the sum number `s`: column after column.
  __device__ int row_of(int s) const {
    return row() + (diagonal() ? s - triangle_number(diagonal_column(s)) : s % kTileRows<kForm>);
  }
  __device__ int column_of(int s) const { return column() + (diagonal() ? diagonal_column(s) : s / kTileRows<kForm>); }
  __device__ static int diagonal_column(int s) { return (s >= 1) + (s >= 3) + (s >= 6); }
  __device__ bool owns(int s) const { return s < owned(); }
};

// Products of two lifted operands.
template <Form kForm>
using TileSums = LiftedBlock<2>[kMostSums<kForm>];

// One block column k of an operand. Block (i, k) is at `column` + i blocks where it is stored, i <= k, or where the
// column was streamed; else it is the mirror image of block (k, i), at `rows` + triangle_number(i) + k blocks.
struct Operand {
  SharedAddress column;
  SharedAddress rows;
  bool streamed;
};

// Of a plane in shared memory.
__device__ inline Operand resident_operand(SharedAddress plane, int k) {
  return {plane + triangle_number(k) * kBlockBytes, plane, false};
}

// How the blocks (i, k) of a strip of block rows lie for one k: all below the diagonal, some, or none.
enum class Side { kMirrored, kCrossing, kStored };

// What a lane adds to the address of a block: the row of it that the lane loads, for tiles in the order in which they
// are stored, and with those off the diagonal exchanged (lanes 8-15 and 16-23 change places).
struct LaneOffset {
  SharedAddress in_order;
  SharedAddress exchanged;

  __device__ LaneOffset() {
    const unsigned lane = recomputed(lane_of_thread());
    in_order = lane * 16;
    exchanged = in_order + (lane & 8) * 16 - (lane & 16) * 8;
  }
};

enum class Hand { kLeft, kRight };

// A block, or its mirror image, as an operand of multiply_add. Transposing exchanges the two tiles off the diagonal,
// and a right operand wants them exchanged.
template <Hand kHand>
__device__ inline Fragment load_block(SharedAddress block, const LaneOffset& lane) {
  return load_matrix(block + (kHand == Hand::kRight ? lane.exchanged : lane.in_order));
}

template <Hand kHand>
__device__ inline Fragment load_block_transposed(SharedAddress block, const LaneOffset& lane) {
  return load_matrix_transposed(block + (kHand == Hand::kRight ? lane.in_order : lane.exchanged));
}

// Where a lane finds the blocks (i, k) of a strip of block rows in shared memory, for one k after the other of which
// all are on the same side: one address for each row that is mirrored, a single one for all that are stored.
template <Hand kHand, Side kSide, int kRows>
struct Strip {
  static constexpr bool kMirrored = kSide == Side::kMirrored;

  SharedAddress address[kMirrored ? kRows : 1];
  SharedAddress step;  // of those that are stored: column k + 1 begins k + 1 blocks behind column k

  __device__ Strip(SharedAddress plane, int row, int k) {
    const LaneOffset lane;
    const SharedAddress offset = kMirrored == (kHand == Hand::kRight) ? lane.in_order : lane.exchanged;
#pragma unroll
    for (int r = 0; r < (kMirrored ? kRows : 1); ++r) {
      const int block = kMirrored ? triangle_number(row + r) + k : packed_block(row, k);
      // For the compiler a new number: else it keeps its parts.
      address[r] = recomputed(plane + offset + block * kBlockBytes);
    }
    step = (k + 1) * kBlockBytes;
  }

  __device__ Fragment load(int r) const {
    return kMirrored ? load_matrix_transposed(address[r]) : load_matrix(address[0] + r * kBlockBytes);
  }

  __device__ void advance() {
#pragma unroll
    for (int r = 0; r < (kMirrored ? kRows : 1); ++r) address[r] += kMirrored ? kBlockBytes : step;
    step += kBlockBytes;
  }
};

// The same of an operand for one k, whichever rows are mirrored.
template <Hand kHand>
struct AnyStrip {
  SharedAddress stored;
  // From one row that is mirrored to the next it is one block more each time, where the column was not streamed.
  SharedAddress mirrored, by, more;
  int row, k;

  __device__ AnyStrip(const Operand& operand, int row_, int k_) : row(row_), k(k_) {
    const LaneOffset lane;
    const SharedAddress block = operand.column + row * kBlockBytes;
    stored = block + (kHand == Hand::kRight ? lane.exchanged : lane.in_order);
    mirrored = (operand.streamed ? block : operand.rows + (triangle_number(row) + k) * kBlockBytes) +
               (kHand == Hand::kRight ? lane.in_order : lane.exchanged);
    by = operand.streamed ? kBlockBytes : (row + 1) * kBlockBytes;
    more = operand.streamed ? 0 : kBlockBytes;
  }

  template <Side kSide>
  __device__ Fragment load(int r) const {
    const bool transposed = kSide == Side::kMirrored || (kSide == Side::kCrossing && k < row + r);
    return transposed ? load_matrix_transposed(mirrored + r * by + (r < 2 ? 0 : triangle_number(r - 1)) * more)
                      : load_matrix(stored + r * kBlockBytes);
  }
};

template <Side kSide, Hand kHand>
struct OnSide {
  const AnyStrip<kHand>& strip;

  __device__ Fragment load(int r) const { return strip.template load<kSide>(r); }
};

// sums += column k of the left operand, given by a strip of its block rows, times row k of the right one, given alike;
// for a tile on the diagonal of which all columns are there, or those that are owned.
template <Form kForm, bool kAll, typename Rows, typename Columns>
__device__ inline void multiply_diagonal(const WarpTile<kForm>& tile, const Rows& rows, const Columns& columns,
                                         TileSums<kForm>& sums) {
  Fragment row[kTileRows<kForm>];
#pragma unroll
  for (int c = 0; c < kTileRows<kForm>; ++c) {
    if (!kAll && !tile.owns(triangle_number(c))) return;
    row[c] = rows.load(c);
    const Fragment column = columns.load(c);
#pragma unroll
    for (int r = 0; r <= c; ++r) multiply_add(sums[triangle_number(c) + r], row[r], column);
  }
}

// For a rectangle with so many columns: all, or one where the edge of the matrix cuts it.
template <Form kForm, int kColumns, typename Rows, typename Columns>
__device__ inline void multiply_rectangle(const Rows& rows, const Columns& columns, TileSums<kForm>& sums) {
  Fragment row[kTileRows<kForm>];
#pragma unroll
  for (int r = 0; r < kTileRows<kForm>; ++r) row[r] = rows.load(r);
  static_assert(kTileColumns == 2, "a rectangle that is cut has one column");
#pragma unroll
  for (int c = 0; c < kColumns; ++c) {
    const Fragment column = columns.load(c);
#pragma unroll
    for (int r = 0; r < kTileRows<kForm>; ++r) multiply_add(sums[c * kTileRows<kForm> + r], row[r], column);
  }
}

// Of a tile; the last two where the edge of the matrix cuts it.
enum class Shape { kDiagonal, kRectangle, kCutDiagonal, kCutRectangle };

template <Shape kShape>
constexpr bool kOnDiagonal = kShape == Shape::kDiagonal || kShape == Shape::kCutDiagonal;
// Block columns of a tile of that shape, or the most that there are.
template <Form kForm, Shape kShape>
constexpr int kColumnsOf = kOnDiagonal<kShape>              ? kTileRows<kForm>
                           : kShape == Shape::kCutRectangle ? 1
                                                            : kTileColumns;
// And blocks of it.
template <Form kForm, Shape kShape>
constexpr int kSumsOf = kShape == Shape::kDiagonal      ? kDiagonalSums<kForm>
                        : kShape == Shape::kCutDiagonal ? kDiagonalSums<kForm> - kTileRows<kForm>
                                                        : kColumnsOf<kForm, kShape> * kTileRows<kForm>;

template <Shape kShape, Form kForm, typename Rows, typename Columns>
__device__ inline void multiply_strips(const WarpTile<kForm>& tile, const Rows& rows, const Columns& columns,
                                       TileSums<kForm>& sums) {
  if constexpr (kOnDiagonal<kShape>) {
    multiply_diagonal<kForm, kShape == Shape::kDiagonal>(tile, rows, columns, sums);
  } else {
    multiply_rectangle<kForm, kColumnsOf<kForm, kShape>>(rows, columns, sums);
  }
}

// What a tile does for some k, as a type: on which side of the diagonal its blocks are.
template <Shape kShape, Side kRows, Side kColumns>
struct Stretch {
  // For one k.
  template <Form kForm>
  __device__ static void multiply_column(const WarpTile<kForm>& tile, const AnyStrip<Hand::kLeft>& rows,
                                         const AnyStrip<Hand::kRight>& columns, TileSums<kForm>& sums) {
    multiply_strips<kShape, kForm>(tile, OnSide<kRows, Hand::kLeft>{rows}, OnSide<kColumns, Hand::kRight>{columns},
                                   sums);
  }

  // For all k from `begin` to `end` of planes in shared memory.
  template <Form kForm>
  __device__ static void multiply(const WarpTile<kForm>& tile, SharedAddress left, SharedAddress right, int begin,
                                  int end, TileSums<kForm>& sums) {
    if constexpr (kRows == Side::kCrossing || kColumns == Side::kCrossing) {
#pragma unroll 1
      for (int k = begin; k < end; ++k) {
        const AnyStrip<Hand::kLeft> rows(resident_operand(left, k), tile.row(), k);
        const AnyStrip<Hand::kRight> columns(resident_operand(right, k), tile.column(), k);
        multiply_column<kForm>(tile, rows, columns, sums);
      }
    } else {
      Strip<Hand::kLeft, kRows, kTileRows<kForm>> rows(left, tile.row(), begin);
      Strip<Hand::kRight, kColumns, kColumnsOf<kForm, kShape>> columns(right, tile.column(), begin);
      // Of two steps, the loads of the second pass before the products of the first, where there are registers for
      // both.
      constexpr bool kLargest = kOnDiagonal<kShape> && kTileRows<kForm> > 2;
      [[maybe_unused]] constexpr int kSteps = kTileRows<kForm> == 1 || (kRows == Side::kMirrored && !kLargest) ? 2 : 1;
#pragma unroll kSteps
      for (int k = begin; k < end; ++k) {
        multiply_strips<kShape, kForm>(tile, rows, columns, sums);
        rows.advance();
        columns.advance();
      }
    }
    clear_unowned<kForm>(sums);
  }

  // Sums that no tile of this shape owns need no registers until here.
  template <Form kForm>
  __device__ static void clear_unowned(TileSums<kForm>& sums) {
#pragma unroll
    for (int s = kSumsOf<kForm, kShape>; s < kMostSums<kForm>; ++s) sums[s] = {};
  }
};

// Calls visit(stretch, first k, end) for the stretches of k, in order, in which all rows of the tile are mirrored or
// all stored, and its columns as well, or in which some of them cross over. A warp without a tile has none.
template <Form kForm, typename Visit>
__device__ inline void for_each_stretch(const WarpTile<kForm>& tile, Visit visit) {
  constexpr Side kMirrored = Side::kMirrored, kCrossing = Side::kCrossing, kStored = Side::kStored;
  const int row = tile.row(), column = tile.column(), blocks = tile.blocks;
  const int rows_stored = row + kTileRows<kForm> - 1, columns_stored = column + kTileColumns - 1;
  if (tile.owned() == 0) return;
  if (tile.diagonal() && tile.cut()) {
    // Where blocks are looked up anew for each k, as those that cross over are in shared memory, one stretch does.
    if constexpr (kStreams<kForm>) visit(Stretch<Shape::kCutDiagonal, kMirrored, kMirrored>(), 0, row);
    visit(Stretch<Shape::kCutDiagonal, kCrossing, kCrossing>(), kStreams<kForm> ? row : 0, blocks);
  } else if (tile.cut()) {
    visit(Stretch<Shape::kCutRectangle, kMirrored, kMirrored>(), 0, row);
    visit(Stretch<Shape::kCutRectangle, kCrossing, kMirrored>(), row, rows_stored);
    visit(Stretch<Shape::kCutRectangle, kStored, kMirrored>(), rows_stored, column);
    visit(Stretch<Shape::kCutRectangle, kStored, kCrossing>(), column, blocks);
  } else if (tile.diagonal()) {
    visit(Stretch<Shape::kDiagonal, kMirrored, kMirrored>(), 0, row);
    visit(Stretch<Shape::kDiagonal, kCrossing, kCrossing>(), row, rows_stored);
    visit(Stretch<Shape::kDiagonal, kStored, kStored>(), rows_stored, blocks);
  } else {
    visit(Stretch<Shape::kRectangle, kMirrored, kMirrored>(), 0, row);
    visit(Stretch<Shape::kRectangle, kCrossing, kMirrored>(), row, rows_stored);
    visit(Stretch<Shape::kRectangle, kStored, kMirrored>(), rows_stored, column);
    visit(Stretch<Shape::kRectangle, kStored, kCrossing>(), column, columns_stored);
    visit(Stretch<Shape::kRectangle, kStored, kStored>(), columns_stored, blocks);
  }
}

// sums += one block column of a left operand times one of a right one, each given by the blocks of a strip of it.
template <Form kForm, typename Rows, typename Columns>
__device__ inline void multiply_tile(const WarpTile<kForm>& tile, const Rows& rows, const Columns& columns,
                                     TileSums<kForm>& sums) {
  if (tile.owned() == 0) return;
  if (tile.diagonal()) {
    if (tile.cut()) {
      multiply_strips<Shape::kCutDiagonal, kForm>(tile, rows, columns, sums);
    } else {
      multiply_strips<Shape::kDiagonal, kForm>(tile, rows, columns, sums);
    }
  } else if (tile.cut()) {
    multiply_strips<Shape::kCutRectangle, kForm>(tile, rows, columns, sums);
  } else {
    multiply_strips<Shape::kRectangle, kForm>(tile, rows, columns, sums);
  }
}

// The same for operands of which all blocks are where they are stored.
template <Form kForm>
__device__ inline void multiply_stored(const WarpTile<kForm>& tile, const Operand& left, const Operand& right,
                                       TileSums<kForm>& sums) {
  const AnyStrip<Hand::kLeft> rows(left, tile.row(), 0);
  const AnyStrip<Hand::kRight> columns(right, tile.column(), 0);
  multiply_tile<kForm>(tile, OnSide<Side::kStored, Hand::kLeft>{rows}, OnSide<Side::kStored, Hand::kRight>{columns},
                       sums);
}

}  // namespace gcp_kernels
