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

// Stores a block of one sample's result; of a block on the diagonal its upper half, on both sides.
__device__ inline void store_result(const SymmetricOutput& output, std::int64_t sample, int i, int j,
                                    const LiftedBlock<0>& values) {
  const int channels = output.channels;
  const std::int64_t start = sample * (output.triangle ? triangle_number(channels) : channels * channels);
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
