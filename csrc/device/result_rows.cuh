// Rows of a symmetric result on their way into global memory.
//
// A warp has a block of the result in registers, two neighbours of a row in each lane: stored from there, an
// instruction writes parts of 16 bytes of eight rows, which begin anywhere. On an H100 that took most of the forward
// pass at 2048 channels and 7x7 positions, which was 3.6 times as long with it. But the elements of a row of a triangle
// are neighbours: so a warp takes the blocks of 16 rows from left to right and lets them pass through a ring in shared
// memory, from which whole sectors of memory are stored, 16 bytes a lane. A row that begins or ends inside of one is
// stored by elements there.
#pragma once

#include "device/pooled.cuh"

namespace gcp_kernels {

// The rows of block row i of one sample's triangle, from block column `first` on, by one warp.
//
// The place of an element counts elements from an address before the triangle at which a row of a ring would begin:
// from it follow a sector of memory, and where in the ring the element is.
struct ResultRows {
  int channels, i, first;
  char* start;                         // place 0
  SharedAddress put_row, stored_row;   // of the ring: the first of two rows in which a lane puts, and what it stores of
  std::uint32_t upper, lower, stored;  // the places of these rows' column 0, where the triangle has none too

  // In elements: what the ring holds of a row, a sector, and what a lane stores at once.
  template <typename Bits>
  static constexpr int kRing = kRingRowBytes / sizeof(Bits);
  template <typename Bits>
  static constexpr int kSector = kRing<Bits> / 2;
  template <typename Bits>
  static constexpr int kUnit = kSector<Bits> / 2;

  __device__ ResultRows(const SymmetricOutput& output, std::int64_t sample, int i_, int first_, SharedAddress ring)
      : channels(output.channels), i(i_), first(first_) {
    const int lane = lane_of_thread(), size = size_of(output.element);
    char* const triangle = static_cast<char*>(output.data) + sample * triangle_number(channels) * size;
    const int before = static_cast<int>(reinterpret_cast<std::uintptr_t>(triangle) % kRingRowBytes);
    start = triangle - before;
    const auto place = [&](int row) { return before / size + packed_index(row, row, channels) - row; };
    put_row = ring + lane / 4 * kRingRowBytes;
    stored_row = ring + lane / 2 * kRingRowBytes;
    upper = place(element_row(i, 0));
    lower = place(element_row(i, 2));
    stored = place(row_to_store());
  }

  // The next block, of column j: a sector of each row or, of float32, two.
  template <typename Bits>
  __device__ void put(int j, const Bits (&bits)[8]) const {
    constexpr int kSteps = kBlockSide / kSector<Bits>, kOfStep = 8 / kSteps;
#pragma unroll
    for (int step = 0; step < kSteps; ++step) {
      const int before = j * kBlockSide + step * kSector<Bits>;
      if (before >= channels) return;  // it would overwrite what is not stored yet
      const int column = element_column(j, 0);
      for_each_element([&](int e, int r, int c) {
        if (e / kOfStep != step) return;
        const SharedAddress to = in_ring<Bits>(put_row, (r == 0 ? upper : lower) + column + c) + r * kRingRowBytes;
        if constexpr (sizeof(Bits) == 2) {
          store_shared_half(to, bits[e]);
        } else {
          store_shared(to, bits[e]);
        }
      });
      warp_barrier();  // the rows are longer by a sector
      store_sector<Bits>(before, min(before + kSector<Bits>, channels));
      warp_barrier();  // what has been stored may be overwritten
    }
  }

  // What is left before block column `end`.
  template <typename Bits>
  __device__ void finish(int end) const {
    const int columns = min(end * kBlockSide, channels);
    store_unit<Bits>((stored + columns) / kSector<Bits>, columns);
    warp_barrier();  // the ring is free
  }

 private:
  __device__ int row_to_store() const { return i * kBlockSide + lane_of_thread() / 2; }

  // Rows of rings are aligned to what they hold.
  template <typename Bits>
  __device__ static SharedAddress in_ring(SharedAddress row, std::uint32_t place) {
    return row | (place * sizeof(Bits) & (kRingRowBytes - 1));
  }

  // The sector of a row that `columns` columns complete, and `before` did not.
  template <typename Bits>
  __device__ void store_sector(int before, int columns) const {
    const std::uint32_t complete = (stored + columns) / kSector<Bits>;
    if (complete > (stored + before) / kSector<Bits>) store_unit<Bits>(complete - 1, columns);
  }

  // This lane's half of a sector, as far as it is in the row and before `end`.
  template <typename Bits>
  __device__ void store_unit(std::uint32_t sector, int end) const {
    const int row = row_to_store();
    if (row >= channels) return;
    const std::uint32_t at = sector * kSector<Bits> + lane_of_thread() % 2 * kUnit<Bits>;
    const std::uint32_t begin = stored + max(row, first * kBlockSide);
    const TileRow unit = load_shared_row(in_ring<Bits>(stored_row, at));
    char* const to = start + std::int64_t{at} * sizeof(Bits);
    if (at >= begin && at + kUnit<Bits> <= stored + end) {
      *reinterpret_cast<TileRow*>(to) = unit;
      return;
    }
    constexpr int kOfWord = 4 / sizeof(Bits);
#pragma unroll
    for (int e = 0; e < kUnit<Bits>; ++e) {
      if (at + e < begin || at + e >= stored + end) continue;
      reinterpret_cast<Bits*>(to)[e] = static_cast<Bits>(unit.word[e / kOfWord] >> e % kOfWord * 16);
    }
  }
};

// Stores block row i of one sample's result, its block columns from `first` to `end`, by one warp: block_of(j) gives
// this lane's share of a block, above the diagonal or on it. `ring` has kRingBytes of shared memory for the warp.
template <typename BlockOf>
__device__ inline void store_result_rows(const SymmetricOutput& output, std::int64_t sample, int i, int first, int end,
                                         SharedAddress ring, BlockOf block_of) {
  const ResultRows rows(output, sample, i, first, ring);
  const bool words = output.element == Element::kFloat32;
#pragma unroll 1
  for (int j = first; j < end; ++j) {
    const LiftedBlock<0> block = block_of(j);
    if (!output.triangle) {
      store_full_result(output, sample, i, j, block);
    } else if (words) {
      rows.put(j, in_words(block).bits);
    } else {
      rows.put(j, in_halves(output.element, block).bits);
    }
  }
  if (!output.triangle) return;
  words ? rows.finish<std::uint32_t>(end) : rows.finish<std::uint16_t>(end);
}

}  // namespace gcp_kernels
