// Symmetric results, and gradients of them, in global memory: a full matrix, or its upper triangle, row by row.
#pragma once

#include "device/arguments.h"
#include "device/elements.cuh"
#include "device/symmetric.cuh"

namespace gcp_kernels {

// Row and column, within its matrix, of element e of a lane's share of block (i, j).
__device__ inline int element_row(int i, int e) { return i * kBlockSide + e / 2 % 2 * 8 + lane_of_thread() / 4; }
__device__ inline int element_column(int j, int e) {
  return j * kBlockSide + e / 4 * 8 + lane_of_thread() % 4 * 2 + e % 2;
}

// Whether all of block (i, j) is in the matrix, and above its diagonal.
__device__ inline bool is_inside(int i, int j, int channels) { return i < j && (j + 1) * kBlockSide <= channels; }

// What most blocks take, for which a lane needs an address for each of its rows, and not for each element: calls
// visit(e, how far element e is from the lane's first one along the rows, and along the columns).
template <typename Visit>
__device__ inline void for_each_element(Visit visit) {
#pragma unroll
  for (int e = 0; e < 8; ++e) visit(e, e / 2 % 2 * 8, e / 4 * 8 + e % 2);
}

// A lane's share of a block as elements of two bytes.
struct HalfBlock {
  std::uint16_t bits[8];
};

__device__ inline HalfBlock in_halves(Element element, const LiftedBlock<0>& values) {
  HalfBlock halves;
#pragma unroll
  for (int e = 0; e < 8; e += 2) {
    const std::uint32_t pair = pack_pair(element, values.value[e], values.value[e + 1]);
    halves.bits[e] = static_cast<std::uint16_t>(pair);
    halves.bits[e + 1] = static_cast<std::uint16_t>(pair >> 16);
  }
  return halves;
}

// The same of four bytes.
struct WordBlock {
  std::uint32_t bits[8];
};

__device__ inline WordBlock in_words(const LiftedBlock<0>& values) {
  WordBlock words;
#pragma unroll
  for (int e = 0; e < 8; ++e) words.bits[e] = as_word(values.value[e]);
  return words;
}

// Stores a block of one sample's full result, on both sides of the diagonal; of a block on it the upper half.
__device__ inline void store_full_result(const SymmetricOutput& output, std::int64_t sample, int i, int j,
                                         const LiftedBlock<0>& values) {
  const int channels = output.channels;
  const std::int64_t start = sample * channels * channels;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = element_row(i, e), column = element_column(j, e);
    if (row > column || column >= channels) continue;
    store_element(output.element, output.data, start + row * channels + column, values.value[e]);
    if (row < column) store_element(output.element, output.data, start + column * channels + row, values.value[e]);
  }
}

// Where one sample's gradient begins.
__device__ inline const char* start_of(const SymmetricGradient& gradient, std::int64_t sample) {
  return static_cast<const char*>(gradient.data) + sample * gradient.batch_stride * size_of(gradient.element);
}

// Whether one sample's gradient is a triangle whose elements are neighbours in memory.
__device__ inline bool is_packed(const SymmetricGradient& gradient) {
  return gradient.triangle && gradient.row_stride == 1;
}

// What a lane has loaded of a block of G + G^T: as the elements are in memory, where nothing has waited for them yet,
// or in float32.
struct LoadedBlock {
  std::uint32_t bits[8];
  bool in_halves;

  __device__ LiftedBlock<0> elements(Element element) const {
    LiftedBlock<0> twice;
    if (!in_halves) {
#pragma unroll
      for (int e = 0; e < 8; ++e) twice.value[e] = as_float(bits[e]);
    } else if (element == Element::kBFloat16) {
#pragma unroll
      for (int e = 0; e < 8; ++e) twice.value[e] = as_float(bits[e] << 16);
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) twice.value[e] = first_half(bits[e]);
    }
    return twice;
  }
};

// A block of G + G^T, where the gradient of a triangle is that of a matrix with zeros below the diagonal; for who asks
// for blocks below it too, kBelow.
template <bool kBelow>
__device__ inline LoadedBlock load_gradient_block(const SymmetricGradient& gradient, const char* start, int i, int j) {
  const int channels = gradient.channels, last = channels - 1;
  LoadedBlock loaded;
  const bool above = is_inside(i, j, channels), below = kBelow && is_inside(j, i, channels);
  // Not of a full matrix: the addresses on both sides of the diagonal would take more registers than there are.
  if (is_packed(gradient) && (above || below)) {
    const auto load_all = [&](const auto* data) {  // there is nothing on the other side of the diagonal
      const int row = element_row(i, 0), column = element_column(j, 0);
      if (above) {
        const auto* const first = data + packed_index(row, column, channels);
        const auto* const second = first + packed_index(8, 0, channels - row);
        for_each_element([&](int e, int r, int c) { loaded.bits[e] = (r == 0 ? first : second)[c]; });
      } else if constexpr (kBelow) {
        const auto* const first = data + packed_index(column, row, channels);
        for_each_element([&](int e, int r, int c) { loaded.bits[e] = first[packed_index(c, r, channels - column)]; });
      }
    };
    loaded.in_halves = gradient.element != Element::kFloat32;
    if (loaded.in_halves) {
      load_all(reinterpret_cast<const std::uint16_t*>(start));
    } else {
      load_all(reinterpret_cast<const std::uint32_t*>(start));
    }
    return loaded;
  }
  loaded.in_halves = false;
  float one[8], other[8];
  // All loads before the first use, and none of them behind a branch of its own: a load takes hundreds of cycles.
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
    const std::int64_t at = gradient.triangle
                                ? packed_index(min(row, column), max(row, column), channels) * gradient.row_stride
                                : row * gradient.row_stride + column * gradient.column_stride;
    one[e] = load_element(gradient.element, start, at);
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    other[e] = 0.0f;
    if (gradient.triangle) continue;
    const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
    other[e] = load_element(gradient.element, start, column * gradient.row_stride + row * gradient.column_stride);
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = element_row(i, e), column = element_column(j, e);
    const float value = gradient.triangle && row == column ? 2.0f * one[e] : one[e] + other[e];
    loaded.bits[e] = row > last || column > last ? 0 : as_word(value);
  }
  return loaded;
}

// The same above the diagonal, or on it.
__device__ inline LiftedBlock<0> load_twice_symmetric(const SymmetricGradient& gradient, std::int64_t sample, int i,
                                                      int j) {
  return load_gradient_block<false>(gradient, start_of(gradient, sample), i, j).elements(gradient.element);
}

}  // namespace gcp_kernels
