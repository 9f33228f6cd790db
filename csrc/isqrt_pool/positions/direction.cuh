// H = G z for one sample, with G the direction of device/direction.cuh, (C, C): block rows of channels in the slab,
// split into a high and a low plane.
#pragma once

#include "device/direction.cuh"
#include "device/feature_products.cuh"
#include "isqrt_pool/positions/gram.cuh"
#include "isqrt_pool/positions/rows.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

// The largest of some magnitudes by their bits: these are ordered as the numbers are, and NaN comes behind them all.
struct LargestBits {
  std::uint32_t words = 0;  // of float32, or of the second halves of words
  std::uint32_t first_halves = 0;

  __device__ void add(std::uint32_t word) {
    words = max(words, word & 0x7fffffffu);
    first_halves = max(first_halves, word & 0x7fffu);
  }
  __device__ float value(Element element) const {
    return element == Element::kFloat32 ? as_float(words) : half_value(element, max(words >> 16, first_halves));
  }
};

// The largest magnitude of a packed triangle with its diagonal doubled, a thread's part of it: by 16 bytes, wherever
// the rows of the matrix begin; what is before the first of them and behind the last by elements.
__device__ inline float largest_of_triangle(const SymmetricGradient& grad, const char* start) {
  const int size = size_of(grad.element), at_once = static_cast<int>(sizeof(TileRow)) / size;
  const int elements = triangle_number(grad.channels);
  const int misaligned = static_cast<int>(reinterpret_cast<std::uintptr_t>(start) % sizeof(TileRow)) / size;
  const int before = min((at_once - misaligned) % at_once, elements);
  const int aligned = (elements - before) / at_once;
  const auto* const rows = reinterpret_cast<const TileRow*>(start + before * size);
  constexpr int kAtOnce = 8;  // loads before the first use; behind the end the last one again
  LargestBits bits;
  for (int n = threadIdx.x; n < aligned; n += kAtOnce * blockDim.x) {
    TileRow loaded[kAtOnce];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) loaded[k] = rows[min(n + k * static_cast<int>(blockDim.x), aligned - 1)];
#pragma unroll
    for (int k = 0; k < kAtOnce; ++k) {
#pragma unroll
      for (int w = 0; w < 4; ++w) bits.add(loaded[k].word[w]);
    }
  }
  float largest = bits.value(grad.element);
  for (int n = threadIdx.x; n < elements - aligned * at_once; n += blockDim.x) {
    const int at = n < before ? n : n + aligned * at_once;
    largest = larger(largest, fabsf(load_element(grad.element, start, at)));
  }
  for (int n = threadIdx.x; n < grad.channels; n += blockDim.x) {
    const int at = packed_index(n, n, grad.channels);
    largest = larger(largest, 2.0f * fabsf(load_element(grad.element, start, at)));
  }
  return largest;
}

// The largest magnitude of G + G^T.
__device__ inline float largest_of_gradient(const Workspace& workspace, const SymmetricGradient& grad,
                                            std::int64_t number, int channel_blocks) {
  if (is_packed(grad)) return block_max(workspace, largest_of_triangle(grad, start_of(grad, number)));
  float largest = 0.0f;
  int i = 0, j = 0;  // the block number `block` of those on and above the diagonal, column after column
#pragma unroll 1
  for (int block = warp_of_thread(); block < triangle_number(channel_blocks); block += blockDim.x / kWarpSize) {
    while (triangle_number(j + 1) <= block) ++j;
    i = block - triangle_number(j);
    const LiftedBlock<0> twice = load_twice_symmetric(grad, number, i, j);
#pragma unroll
    for (int e = 0; e < 8; ++e) largest = larger(largest, fabsf(twice.value[e]));
  }
  return block_max(workspace, largest);
}

// Whether a block of G is loaded a step ahead of its product: beside the sums of large tiles there are no registers.
template <Form kForm>
constexpr bool kAhead = most_blocks(kForm) <= kMostColumns;

// sums += a block of G times block row j of z.
template <Form kForm, int kPlanes>
__device__ inline void multiply_row(const RowGroup& own, const SplitFragment& g, const Panel& z, int j,
                                    LiftedBlock<2> (&sums)[kColumns<kForm>]) {
  const SharedAddress first = recomputed(z.block(j, own.first_column, false));
  const PanelStrip<Hand::kRight> high{first, LaneOffset()}, low{first + z.plane_bytes, LaneOffset()};
  const auto multiply = [&](int c) {
    const Fragment column = high.load(c);
    if constexpr (kPlanes == 2) multiply_add(sums[c], g.low, column);
    multiply_add(sums[c], g.high, low.load(c));
    multiply_add(sums[c], g.high, column);
  };
  // Where all are there, without a branch between loads: beside the sums of larger forms they would find no registers.
  if (kForm == Form::kSmall && own.has(kColumns<kForm> - 1)) {
#pragma unroll
    for (int c = 0; c < kColumns<kForm>; ++c) multiply(c);
  } else {
#pragma unroll
    for (int c = 0; c < kColumns<kForm>; ++c) {
      if (!own.has(c)) break;
      multiply(c);
    }
  }
}

// Leaves H = (G + G^T) / largest z in the slab, and z itself. The features are split in every precision: of a
// covariance of rank one their rounding would be most of the error of "fast". Rows of z pass through all of the
// layout's room; blocks of G go from global memory into registers, since no more than two warps need the same one.
template <Form kForm, int kPlanes>
__device__ inline void store_direction_rows(const Workspace& workspace, const PositionsLayout& layout,
                                            const SymmetricGradient& grad, const WeightedSample& weighted,
                                            const PositionsSlab& slab) {
  // Asked for again and again: beside the sums every register counts.
  const auto channel_blocks = [&] { return recomputed(layout.channel_blocks); };
  const auto rows_at_once = [&] { return min(layout.rows_of(blockDim.x / kWarpSize), channel_blocks()); };
  const auto columns_at_once = [&] {
    const int room = recomputed(layout.room()) / (2 * recomputed(layout.blocks()) * kBlockBytes);
    return min(min(room, channel_blocks()), most_summed_columns(kPlanes));
  };
  const auto z = [&] { return panel_at(workspace.start(), columns_at_once(), recomputed(layout.blocks())); };
#pragma unroll 1
  for (int row = 0; row < channel_blocks(); row += rows_at_once()) {
    const auto rows = [&] { return min(rows_at_once(), channel_blocks() - row); };
#pragma unroll 1
    for (int column = 0; column < channel_blocks(); column += columns_at_once()) {
      const auto columns = [&] { return min(columns_at_once(), channel_blocks() - column); };
      if (row == 0 || columns_at_once() < channel_blocks()) {  // where all of z is there at once, it stays
        block_barrier();  // what was there before is read, and what is kept is written
        if (row == 0) {
          stage_rows<kForm>(weighted, column, columns(), 2, z(), true, [&] { return slab.features(); });
        } else {
          copy_rows<2>(slab.features(), column, columns(), z());
          wait_for_copies<0>();
        }
        block_barrier();  // z is staged
      }
      const RowGroup own(warp_of_thread(), layout);
      if (own.row >= rows()) continue;
      const int count = columns();
      LiftedBlock<2> sums[kColumns<kForm>] = {};
      const auto block = [&](const char* start, int j) {
        return load_gradient_block<true>(grad, start, row + own.row, column + j);
      };
      if constexpr (kAhead<kForm>) {
        const char* const start = start_of(grad, weighted.sample.number());
        const float largest = kept(workspace, Kept::kLargest);
        const Panel right = z();
        LoadedBlock loaded = block(start, 0);
#pragma unroll 1
        for (int j = 0; j < count; ++j) {
          const SplitFragment g = split_fragment(direction_of(loaded.elements(grad.element), largest, lift()));
          if (j + 1 < count) loaded = block(start, j + 1);
          multiply_row<kForm, kPlanes>(own, g, right, j, sums);
        }
      } else {
#pragma unroll 1
        for (int j = 0; j < count; ++j) {
          const LoadedBlock loaded = block(start_of(grad, weighted.sample.number()), j);
          const float largest = kept(workspace, Kept::kLargest);
          const SplitFragment g = split_fragment(direction_of(loaded.elements(grad.element), largest, lift()));
          multiply_row<kForm, kPlanes>(own, g, z(), j, sums);
        }
      }
      // What tensor cores have summed is put aside (feature_products.cuh says why): added to what is there.
      const SlabRows result = slab.rows();
      for_each_column<kForm>(own, sums, [&](const LiftedBlock<2>& sum, int k) {
        LiftedBlock<1> h = times(unlift(), sum);
        if (column > 0) h = combine(1.0f, h, 1.0f, result.elements(row + own.row, k));
        const SplitFragment split = split_fragment(h);
        result.store(row + own.row, k, false, split.high);
        result.store(row + own.row, k, true, split.low);
      });
    }
  }
}

}  // namespace gcp_kernels
