// Products of two planes, whose block columns are streamed through a ring in shared memory where they are in a slab.
#pragma once

#include "device/planes.cuh"

namespace gcp_kernels {

// The two operands of a product, each a plane, and the block columns of those that are streamed, a few ahead of their
// use; every thread of the block takes part. What is asked of it in each step is found once.
template <Form kForm>
struct Stream {
  const Workspace& workspace;
  // By bits, from 0: left plane; 8: right plane; 16, 17: whether each is streamed; 18: how many planes are, the same
  // one twice being one; 20: columns of each that the ring holds, 1, 2 or 4, less one; 24: how many columns this warp
  // copies ahead of their use, or more than there are for one without a block row.
  int packed;
  // A warp copies one block of each column, that of its own block row, 16 bytes a lane: there are as many warps as
  // block rows. Where this lane's bytes of the next column are, from the start of the slabs, and where those of the
  // first one go.
  std::uint32_t from;
  SharedAddress to;

  __device__ Stream(const Workspace& workspace_, Plane left, Plane right) : workspace(workspace_) {
    const int l = workspace.is_streamed<kForm>(left), r = workspace.is_streamed<kForm>(right);
    const int number = l + (left != right ? r : 0);
    const int most = number == 2 ? workspace.layout.ring_columns / 2 : workspace.layout.ring_columns;
    const int ahead = most >= 4 ? 3 : most >= 2 ? 1 : 0;
    packed = static_cast<int>(left) | static_cast<int>(right) << 8 | l << 16 | r << 17 | number << 18 | ahead << 20 |
             (warp_of_thread() < workspace.layout.blocks ? ahead : 2 * kMostBlocks) << 24;
  }

  __device__ Plane left() const { return static_cast<Plane>(recomputed(packed) & 0xff); }
  __device__ Plane right() const { return static_cast<Plane>(recomputed(packed) >> 8 & 0xff); }
  __device__ bool left_streamed() const { return kStreams<kForm> && (recomputed(packed) & 1 << 16); }
  __device__ bool right_streamed() const { return kStreams<kForm> && (recomputed(packed) & 1 << 17); }
  __device__ int count() const { return kStreams<kForm> ? recomputed(packed) >> 18 & 3 : 0; }
  // Columns that the ring holds beside the one that is used: 0, 1 or 3.
  __device__ int ahead() const { return recomputed(packed) >> 20 & 3; }

  // Of the columns that are streamed together.
  __device__ int column_bytes() const { return count() * workspace.layout.blocks * kBlockBytes; }
  // Where block column k is in the ring, from where the first one is; and from there to the next one.
  __device__ int slot(int k) const { return (k & ahead()) * column_bytes(); }
  __device__ int slot_step(int k) const {
    const int mask = ahead();
    return (((k + 1) & mask) - (k & mask)) * column_bytes();
  }
  // Bytes from the left plane to the right one.
  __device__ int apart() const {
    return (static_cast<int>(right()) - static_cast<int>(left())) * workspace.layout.plane_bytes();
  }

  // Begins to copy the block column that is so far ahead of k: the one after the last. Of block row i the block of
  // column c + 1 is the next one while c < i, and then c + 1 blocks further.
  __device__ void fetch(int k) {
    const int column = k + (recomputed(packed) >> 24);
    if (column < workspace.layout.blocks) {
      SharedAddress there = to + slot(column);
      std::uint32_t offset = from;
#pragma unroll 1
      for (int left = count();;) {
        copy_async(there, workspace.slabs + offset);
        if (--left == 0) break;
        there += workspace.layout.blocks * kBlockBytes;
        offset += apart();
      }
      from += (column < warp_of_thread() ? 1 : column + 1) * kBlockBytes;
    }
    commit_copies();
  }

  // To be called before the first step.
  __device__ void start() {
    if (count() == 0) return;
    const int offset = lane_of_thread() * static_cast<int>(sizeof(TileRow));
    to = workspace.ring() + warp_of_thread() * kBlockBytes + offset;
    from = workspace.slab_offset(left_streamed() ? left() : right()) + triangle_number(warp_of_thread()) * kBlockBytes +
           offset;
    block_barrier();  // the ring is free, and what the slabs hold is written
#pragma unroll 1
    for (int k = -ahead(); k < 0; ++k) fetch(k);
  }

  // Until block column k is there for every thread.
  __device__ void advance(int k) {
    if (count() == 0) return;
    if (ahead() > 1) {
      wait_for_copies<2>();
    } else {
      wait_for_copies<0>();
    }
    block_barrier();  // ... and the column before it has been used
    fetch(k);
    if (ahead() == 0) {
      wait_for_copies<0>();
      block_barrier();
    }
  }

  // Where column k of a plane is, the one number `number` of those streamed.
  __device__ Operand operand(bool streamed, Plane plane, int number, int k) const {
    if (streamed) return {workspace.ring() + slot(k) + number * workspace.layout.blocks * kBlockBytes, 0, true};
    return resident_operand(workspace.in_shared(plane), k);
  }
  __device__ Operand left_operand(int k) const { return operand(left_streamed(), left(), 0, k); }
  __device__ Operand right_operand(int k) const { return operand(right_streamed(), right(), count() - 1, k); }

  // Block (row, 0) of each operand, or the one that it mirrors: the next ones are one column of the ring or one block
  // further each time.
  __device__ SharedAddress left_block(int row) const { return first_block(left_streamed(), left(), 0, row); }
  __device__ SharedAddress right_block(int row) const {
    return first_block(right_streamed(), right(), count() - 1, row);
  }
  __device__ SharedAddress first_block(bool streamed, Plane plane, int number, int row) const {
    return streamed ? workspace.ring() + (number * workspace.layout.blocks + row) * kBlockBytes
                    : workspace.in_shared(plane) + triangle_number(row) * kBlockBytes;
  }
};

// Where a lane finds the blocks (i, k) of a strip of block rows, for one k after the other, in an operand that may be
// streamed.
template <Hand kHand>
struct RunningStrip {
  SharedAddress address;   // of the first row, mirrored as long as that is: at k = row it is so and stored
  SharedAddress by, more;  // from that to the next one, where rows are mirrored; each time `more`
  bool streamed;

  __device__ RunningStrip(SharedAddress first_block, int row, bool streamed_) : streamed(streamed_) {
    const LaneOffset lane;
    address = first_block + (kHand == Hand::kRight ? lane.in_order : lane.exchanged);
    by = streamed ? kBlockBytes : (row + 1) * kBlockBytes;
    more = streamed ? 0 : kBlockBytes;
  }

  __device__ Fragment load_mirrored(int r) const {
    return load_matrix_transposed(address + r * by + (r < 2 ? 0 : triangle_number(r - 1)) * more);
  }
  __device__ Fragment load_stored(int r) const { return load_matrix(address + r * kBlockBytes); }

  // From the first row mirrored to the same stored.
  __device__ void cross() {
    const LaneOffset lane;
    address += kHand == Hand::kRight ? lane.exchanged - lane.in_order : lane.in_order - lane.exchanged;
  }

  __device__ void advance_mirrored(int slot_step) { address += streamed ? slot_step : kBlockBytes; }
  __device__ void advance_stored(int k, int slot_step) { address += streamed ? slot_step : (k + 1) * kBlockBytes; }
};

// The same while all rows are mirrored, while they cross over, one in each step, and when all are stored.
template <Hand kHand, Side kSide>
struct RunningSide {
  RunningStrip<kHand>& strip;

  __device__ explicit RunningSide(RunningStrip<kHand>& strip_) : strip(strip_) {}
  __device__ Fragment load(int r) const {
    return kSide == Side::kMirrored ? strip.load_mirrored(r) : strip.load_stored(r);
  }
  __device__ void advance(int k, int slot_step) {
    if (kSide == Side::kMirrored) {
      strip.advance_mirrored(slot_step);
    } else {
      strip.advance_stored(k, slot_step);
    }
  }
};

template <Hand kHand>
struct RunningSide<kHand, Side::kCrossing> {
  RunningStrip<kHand>& stored;
  RunningStrip<kHand> mirrored;
  int rows_stored = 1;

  __device__ explicit RunningSide(RunningStrip<kHand>& strip) : stored(strip), mirrored(strip) { stored.cross(); }
  __device__ Fragment load(int r) const {
    return r == 0 || r < rows_stored ? stored.load_stored(r) : mirrored.load_mirrored(r);
  }
  __device__ void advance(int k, int slot_step) {
    mirrored.advance_mirrored(slot_step);
    stored.advance_stored(k, slot_step);
    ++rows_stored;
  }
};

// A product of operands that may be streamed. Each warp waits in a stretch of its own: a barrier counts the warps that
// have come, wherever in the code that is.
template <Form kForm>
struct StreamedProduct {
  Stream<kForm>& stream;
  RunningStrip<Hand::kLeft> left;
  RunningStrip<Hand::kRight> right;

  __device__ StreamedProduct(Stream<kForm>& stream_, const WarpTile<kForm>& tile)
      : stream(stream_),
        left(stream.left_block(tile.row()), tile.row(), stream.left_streamed()),
        right(stream.right_block(tile.column()), tile.column(), stream.right_streamed()) {}

  // sums += column k of the left operand times row k of the right one, for all k from `begin` to `end`.
  template <Shape kShape, Side kRows, Side kColumns>
  __device__ void multiply(Stretch<kShape, kRows, kColumns> stretch, const WarpTile<kForm>& tile, int begin, int end,
                           TileSums<kForm>& sums) {
    RunningSide<Hand::kLeft, kRows> rows(left);
    RunningSide<Hand::kRight, kColumns> columns(right);
#pragma unroll 1
    for (int k = begin; k < end; ++k) {
      stream.advance(k);
      multiply_strips<kShape, kForm>(tile, rows, columns, sums);
      const int slot_step = stream.slot_step(k);
      rows.advance(k, slot_step);
      columns.advance(k, slot_step);
    }
    stretch.template clear_unowned<kForm>(sums);
  }
};

// sums += left right, for symmetric matrices given by one plane each; of the result the blocks of this warp's tile.
template <Form kForm>
__device__ inline void multiply_planes(const Workspace& workspace, const WarpTile<kForm>& tile, Plane left, Plane right,
                                       TileSums<kForm>& sums) {
  if constexpr (kStreams<kForm>) {
    Stream<kForm> stream(workspace, left, right);
    stream.start();
    StreamedProduct<kForm> product(stream, tile.again());
    for_each_stretch<kForm>(tile.again(), [&](auto stretch, int begin, int end) {
      product.multiply(stretch, tile.again(), begin, end, sums);
    });
    if (tile.owned() > 0) return;
#pragma unroll 1
    for (int k = 0; k < workspace.layout.blocks; ++k) stream.advance(k);  // a warp without a tile copies its blocks
  } else {
    const SharedAddress left_start = workspace.in_shared(left), right_start = workspace.in_shared(right);
    for_each_stretch<kForm>(tile.again(), [&](auto stretch, int begin, int end) {
      stretch.multiply(tile.again(), left_start, right_start, begin, end, sums);
    });
  }
}

template <Form kForm>
__device__ inline void multiply_planes(const Workspace& workspace, Plane left, Plane right, TileSums<kForm>& sums) {
  multiply_planes<kForm>(workspace, workspace.tile<kForm>(), left, right, sums);
}

}  // namespace gcp_kernels
