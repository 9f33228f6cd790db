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

// Stores a block of one sample's result; of a block on the diagonal its upper half, on both sides.
__device__ inline void store_result(const SymmetricOutput& output, std::int64_t sample, int i, int j,
                                    const LiftedBlock<0>& values) {
  const int channels = output.channels;
  const std::int64_t start = sample * (output.triangle ? triangle_number(channels) : channels * channels);
  if (is_inside(i, j, channels)) {
    const int row = element_row(i, 0), column = element_column(j, 0);
    const int first = output.triangle ? packed_index(row, column, channels) : row * channels + column;
    const int second = output.triangle ? packed_index(row + 8, column, channels) : first + 8 * channels;
    const auto store_all = [&](auto* data, const auto& bits) {
      for_each_element([&](int e, int r, int c) { data[(r == 0 ? first : second) + c] = bits[e]; });
      if (output.triangle) return;
      for_each_element([&](int e, int r, int c) { data[(column + c) * channels + row + r] = bits[e]; });
    };
    if (output.element == Element::kFloat32) return store_all(static_cast<float*>(output.data) + start, values.value);
    std::uint16_t bits[8];
#pragma unroll
    for (int e = 0; e < 8; ++e) bits[e] = half_bits(output.element, values.value[e]);
    return store_all(static_cast<std::uint16_t*>(output.data) + start, bits);
  }
#pragma unroll
  for (int half = 0; half < 2; ++half) {
    const int row = element_row(i, 2 * half);
    const std::int64_t before = start + (output.triangle ? packed_index(row, row, channels) - row : row * channels);
#pragma unroll
    for (int e = 2 * half; e < 8; e += e % 2 == 0 ? 1 : 3) {
      const int column = element_column(j, e);
      if (row > column || column >= channels) continue;
      store_element(output.element, output.data, before + column, values.value[e]);
      if (output.triangle || row == column) continue;
      store_element(output.element, output.data, start + column * channels + row, values.value[e]);
    }
  }
}

// A block of G + G^T, where the gradient of a triangle is that of a matrix with zeros below the diagonal.
__device__ inline LiftedBlock<0> load_twice_symmetric(const SymmetricGradient& gradient, std::int64_t sample, int i,
                                                      int j) {
  const int last = gradient.channels - 1;
  const std::int64_t start = sample * gradient.batch_stride;
  float one[8], other[8];
  // Not of a full matrix: the addresses on both sides of the diagonal would take more registers than there are.
  if (gradient.triangle && gradient.row_stride == 1 && is_inside(i, j, last + 1)) {
    const int row = element_row(i, 0), column = element_column(j, 0);
    const int first = packed_index(row, column, last + 1), second = packed_index(row + 8, column, last + 1);
    LiftedBlock<0> twice;  // there is nothing below the diagonal
    const auto load_all = [&](const auto* data, auto number) {
      for_each_element([&](int e, int r, int c) { twice.value[e] = number(data[(r == 0 ? first : second) + c]); });
    };
    if (gradient.element == Element::kFloat32) {
      load_all(static_cast<const float*>(gradient.data) + start, [](float value) { return value; });
    } else {
      load_all(static_cast<const std::uint16_t*>(gradient.data) + start,
               [&](std::uint16_t bits) { return half_value(gradient.element, bits); });
    }
    return twice;
  }
  // All loads before the first use, and none of them behind a branch of its own: a load takes hundreds of cycles.
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
    const std::int64_t at =
        gradient.triangle ? packed_index(min(row, column), max(row, column), gradient.channels) * gradient.row_stride
                          : row * gradient.row_stride + column * gradient.column_stride;
    one[e] = load_element(gradient.element, gradient.data, start + at);
  }
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    other[e] = 0.0f;
    if (gradient.triangle) continue;
    const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
    other[e] = load_element(gradient.element, gradient.data,
                            start + column * gradient.row_stride + row * gradient.column_stride);
  }
  LiftedBlock<0> twice;
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    const int row = element_row(i, e), column = element_column(j, e);
    const float value = gradient.triangle && row == column ? 2.0f * one[e] : one[e] + other[e];
    twice.value[e] = row > last || column > last ? 0.0f : value;
  }
  return twice;
}

}  // namespace gcp_kernels
