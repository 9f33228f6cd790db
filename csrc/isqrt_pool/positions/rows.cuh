// Products with features, (C, M): who computes which part of one, and the slab that keeps it.
#pragma once

#include "device/stream.cuh"
#include "isqrt_pool/positions/features.cuh"

namespace gcp_kernels {

// A warp's part of a product with features: one block row of channels, and a group of block columns.
struct RowGroup {
  int row, first_column, end_column;

  __device__ RowGroup(int unit, const PositionsLayout& layout) : row(unit / layout.groups()) {
    first_column = unit % layout.groups() * layout.group_columns();
    end_column = min(first_column + layout.group_columns(), layout.blocks());
  }
  __device__ bool has(int c) const { return first_column + c < end_column; }
};

// Block rows of channels in the slab of this CTA, in one or two planes of halves: z q forward, H backward. Block (i, k)
// is number i * blocks + k of its plane.
struct SlabRows {
  char* start;
  int blocks;
  std::int64_t plane_bytes;

  __device__ char* block(int i, int k, bool low) const {
    return start + (low ? plane_bytes : 0) + (std::int64_t{i} * blocks + k) * kBlockBytes;
  }
  // A lane's words of a block, as a left operand.
  __device__ Fragment load(int i, int k, bool low) const {
    const char* own = block(i, k, low) + lane_of_thread() * 4;
    Fragment fragment;
#pragma unroll
    for (int w = 0; w < 4; ++w) fragment.word[w] = load_slab(own + w * kTileBytes);
    return fragment;
  }
  // A lane's share of a block of two planes.
  __device__ LiftedBlock<1> elements(int i, int k) const {
    const Fragment high = load(i, k, false), low = load(i, k, true);
    LiftedBlock<1> elements;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      elements.value[2 * w] = first_half(high.word[w]) + first_half(low.word[w]);
      elements.value[2 * w + 1] = second_half(high.word[w]) + second_half(low.word[w]);
    }
    return elements;
  }
  __device__ void store(int i, int k, bool low, const Fragment& fragment) const {
    char* const own = block(i, k, low) + lane_of_thread() * 4;
#pragma unroll
    for (int w = 0; w < 4; ++w) store_slab(own + w * kTileBytes, fragment.word[w]);
  }
};

// Copies block rows from the slab into a panel.
template <int kPlanes>
__device__ inline void copy_rows(const SlabRows& rows, int first, int count, const Panel& panel) {
  const int offset = lane_of_thread() * static_cast<int>(sizeof(TileRow));
#pragma unroll 1
  for (int block = warp_of_thread(); block < count * panel.blocks; block += blockDim.x / kWarpSize) {
    const int r = block / panel.blocks, k = block % panel.blocks;
#pragma unroll
    for (int plane = 0; plane < kPlanes; ++plane) {
      copy_async(panel.block(r, k, plane == 1) + offset, rows.block(first + r, k, plane == 1) + offset);
    }
  }
  commit_copies();
  wait_for_copies<0>();
}

// visit(sum, block column) for every block of a warp's part. The sums pass through the first one, so that there is one
// visit in the code and not one for each.
template <Form kForm, typename Visit>
__device__ inline void for_each_column(const RowGroup& own, LiftedBlock<2> (&sums)[kColumns<kForm>], Visit visit) {
#pragma unroll 1
  for (int k = own.first_column; k < own.end_column; ++k) {
    visit(sums[0], k);
#pragma unroll
    for (int c = 0; c + 1 < kColumns<kForm>; ++c) sums[c] = sums[c + 1];
  }
}

// sums += U V for one warp's part of U, given by `left(m)`, and a symmetric V in the planes from `right` on. Where V is
// streamed, every warp takes part. Products with a low plane come first where the precision is that of two planes: what
// a tensor core cuts off is as small as the sum.
template <Form kForm, int kPlanes, bool kLowFirst, typename Left>
__device__ inline void multiply_rows(const Workspace& workspace, Plane right, const RowGroup& own, Left left,
                                     LiftedBlock<2> (&sums)[kColumns<kForm>]) {
  const int blocks = workspace.layout.blocks;
  const Stream<kForm> stream(workspace, right, kPlanes == 2 ? next(right) : right);
#pragma unroll 1
  for (int round = kLowFirst ? 0 : 1; round < 2; ++round) {
    stream.start();
#pragma unroll 1
    for (int m = 0; m < blocks; ++m) {
      stream.advance(m);
      const SplitFragment row = left(m);
      const AnyStrip<Hand::kRight> high(stream.left_operand(m), own.first_column, m);
      const AnyStrip<Hand::kRight> low(stream.right_operand(m), own.first_column, m);
#pragma unroll
      for (int c = 0; c < kColumns<kForm>; ++c) {
        if (!own.has(c)) break;
        const Fragment column = high.template load<Side::kCrossing>(c);
        if (kPlanes == 2 && (!kLowFirst || round == 0)) {
          multiply_add(sums[c], row.low, column);
          multiply_add(sums[c], row.high, low.template load<Side::kCrossing>(c));
        }
        if (round == 1) multiply_add(sums[c], row.high, column);
      }
    }
  }
}

}  // namespace gcp_kernels
