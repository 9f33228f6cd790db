// Symmetric matrices in 16x16 blocks of halves, of which only those on and above the diagonal are kept; and their
// products on the tensor cores, of which only those blocks are computed.
//
// Block (i, j), i <= j, is at packed_block(i, j): a block column after the other. Block (j, i) is the same one,
// loaded transposed. For the right operand of U V, block (k, j) of V is needed by the rows of its transpose, which is
// block (j, k) of V itself: so both operands are loaded alike, but for the order of their tiles.
//
// A product stays in registers until everyone has read its operands; then it may overwrite them. Each warp owns a tile
// of the result: four block rows by two block columns above the diagonal, or the upper half of four by four on it. The
// diagonal tiles are the first warps. At C = 256 these are 16 warps, and each quarter of the multiprocessor issues the
// same number of products. Up to C = 64 a tile has half as many rows, and from C = 33 on a sample has three warps
// instead of one: a multiprocessor has few such samples, and a warp alone waits for every load of its own.
//
// Where a matrix lives is a matter of memory alone: resident in shared memory, or in a slab of global memory that
// belongs to this CTA, from which its block columns are streamed through a ring in shared memory (`Stream`).
#pragma once

#include "device/lifted.cuh"
#include "device/primitives.cuh"
#include "packed.h"
#include "policy.h"

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
// multiprocessor. Not told the latter, the assembler makes room for more small samples, and spills.
template <Form kForm>
constexpr int kMostThreadsOf = kForm == Form::kSmall ? 3 * kWarpSize : kMostThreads;
template <Form kForm>
constexpr int kLeastCtasOf = kForm == Form::kSmall ? 6 : 1;

// The blocks of the result that this warp owns: one number, kept in shared memory between products, from which the rest
// is computed when it is needed. Beside the sums of a tile every register counts.
template <Form kForm>
struct WarpTile {
  int code;    // first block row in the low byte, first block column above it; the same on the diagonal
  int blocks;  // block rows of the matrix; a tile at its edge may reach beyond

  __device__ static WarpTile of_warp(SharedAddress tiles, int blocks) {
    return {static_cast<int>(load_shared(tiles + warp_of_thread() * 4)), blocks};
  }

  // Done once; every thread reads what its own warp has written, after the next barrier.
  __device__ static void assign(SharedAddress tiles, int blocks) {
    const int warp = warp_of_thread();
    const int diagonals = ceil_divide(blocks, kTileRows<kForm>);
    int row = warp * kTileRows<kForm>, column = row;
    if (warp >= diagonals) {
      int rest = warp - diagonals;
      row = 0;
      for (int width; rest >= (width = ceil_divide(blocks - row - kTileRows<kForm>, kTileColumns));
           row += kTileRows<kForm>) {
        rest -= width;
      }
      column = row + kTileRows<kForm> + rest * kTileColumns;
    }
    if (lane_of_thread() == 0) store_shared(tiles + warp * 4, row | column << 8);
  }

  __device__ int row() const { return code & 0xff; }
  __device__ int column() const { return code >> 8; }
  __device__ bool diagonal() const { return row() == column(); }

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
  // Whether there is such a block: tiles on and above the diagonal differ in their number, at the edge of the matrix
  // there are fewer.
  __device__ bool owns(int s) const {
    return s < (diagonal() ? kDiagonalSums<kForm> : kRectangleSums<kForm>) && column_of(s) < blocks;
  }
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

// How the blocks (i, k) of a strip of block rows lie for one k: all below the diagonal, some, or none.
enum class Side { kMirrored, kCrossing, kStored };

// What a lane adds to the address of a block: the row of it that the lane loads, for tiles in the order in which they
// are stored, and with those off the diagonal exchanged (lanes 8-15 and 16-23 change places).
struct LaneOffset {
  SharedAddress in_order;
  SharedAddress exchanged;

  __device__ LaneOffset() {
    const int lane = recomputed(lane_of_thread());
    const int tile = lane / 8;
    in_order = lane * 16;
    exchanged = (tile % 2 * 2 + tile / 2) * kTileBytes + lane % 8 * 16;
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

template <Hand kHand, Side kSide, Form kForm>
__device__ inline Fragment load_operand(const Operand& operand, int i, int k, const LaneOffset& lane) {
  const bool mirrored = kSide == Side::kMirrored || (kSide == Side::kCrossing && k < i);
  const bool elsewhere = mirrored && !(kStreams<kForm> && operand.streamed);
  const SharedAddress block =
      elsewhere ? operand.rows + (triangle_number(i) + k) * kBlockBytes : operand.column + i * kBlockBytes;
  return mirrored ? load_block_transposed<kHand>(block, lane) : load_block<kHand>(block, lane);
}

// sums += column k of `left` times row k of `right`. Rows beyond the matrix take the last one's place; what comes of
// them is not owned by anyone. Two rows at a time: with all four in registers beside ten sums, some would be spilled.
template <Side kSide, Form kForm>
__device__ inline void multiply_diagonal(const WarpTile<kForm>& tile, const Operand& left, const Operand& right, int k,
                                         const LaneOffset& lane, TileSums<kForm>& sums) {
  const int last = tile.blocks - 1;
#pragma unroll
  for (int first = 0; first < kTileRows<kForm>; first += 2) {
    Fragment rows[2];
#pragma unroll
    for (int r = 0; r < 2; ++r) {
      rows[r] = load_operand<Hand::kLeft, kSide, kForm>(left, min(tile.row() + first + r, last), k, lane);
    }
#pragma unroll
    for (int c = first; c < kTileRows<kForm>; ++c) {
      const Fragment column = load_operand<Hand::kRight, kSide, kForm>(right, min(tile.row() + c, last), k, lane);
#pragma unroll
      for (int r = 0; r < 2; ++r) {
        if (first + r <= c) multiply_add(sums[triangle_number(c) + first + r], rows[r], column);
      }
    }
  }
}

template <Side kRows, Side kColumns, Form kForm>
__device__ inline void multiply_rectangle(const WarpTile<kForm>& tile, const Operand& left, const Operand& right, int k,
                                          const LaneOffset& lane, TileSums<kForm>& sums) {
  Fragment rows[kTileRows<kForm>];
#pragma unroll
  for (int r = 0; r < kTileRows<kForm>; ++r) {
    rows[r] = load_operand<Hand::kLeft, kRows, kForm>(left, tile.row() + r, k, lane);
  }
#pragma unroll
  for (int c = 0; c < kTileColumns; ++c) {
    const int i = min(tile.column() + c, tile.blocks - 1);
    const Fragment column = load_operand<Hand::kRight, kColumns, kForm>(right, i, k, lane);
#pragma unroll
    for (int r = 0; r < kTileRows<kForm>; ++r) multiply_add(sums[c * kTileRows<kForm> + r], rows[r], column);
  }
}

// The same for any k of two symmetric matrices.
template <Form kForm>
__device__ inline void multiply_column(const WarpTile<kForm>& tile, const Operand& left, const Operand& right, int k,
                                       const LaneOffset& lane, TileSums<kForm>& sums) {
  constexpr Side kMirrored = Side::kMirrored, kCrossing = Side::kCrossing, kStored = Side::kStored;
  if (tile.diagonal()) {
    if (k < tile.row()) {
      multiply_diagonal<kMirrored, kForm>(tile, left, right, k, lane, sums);
    } else if (k < tile.row() + kTileRows<kForm>) {
      multiply_diagonal<kCrossing, kForm>(tile, left, right, k, lane, sums);
    } else {
      multiply_diagonal<kStored, kForm>(tile, left, right, k, lane, sums);
    }
  } else if (k < tile.row()) {
    multiply_rectangle<kMirrored, kMirrored, kForm>(tile, left, right, k, lane, sums);
  } else if (k < tile.row() + kTileRows<kForm>) {
    multiply_rectangle<kCrossing, kMirrored, kForm>(tile, left, right, k, lane, sums);
  } else if (k < tile.column()) {
    multiply_rectangle<kStored, kMirrored, kForm>(tile, left, right, k, lane, sums);
  } else {
    multiply_rectangle<kStored, kCrossing, kForm>(tile, left, right, k, lane, sums);
  }
}

}  // namespace gcp_kernels
