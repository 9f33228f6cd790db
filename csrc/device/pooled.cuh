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
  const std::int64_t size = output.triangle ? triangle_number(channels) : channels * channels;
  with_element_pointer(output.element, output.data, [&](auto* data) {
    auto* result = data + sample * size;
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = element_row(i, e), column = element_column(j, e);
      if (row > column || column >= channels) continue;
      if (output.triangle) {
        assign(result[packed_index(row, column, channels)], values.value[e]);
      } else {
        assign(result[row * channels + column], values.value[e]);
        if (row != column) assign(result[column * channels + row], values.value[e]);
      }
    }
  });
}

// A block of G + G^T, where the gradient of a triangle is that of a matrix with zeros below the diagonal.
__device__ inline LiftedBlock<0> load_twice_symmetric(const SymmetricGradient& gradient, std::int64_t sample, int i,
                                                      int j) {
  LiftedBlock<0> twice;
  const int last = gradient.channels - 1;
  with_element_pointer(gradient.element, gradient.data, [&](const auto* data) {
    const auto* matrix = data + sample * gradient.batch_stride;
    float one[8], other[8];
    // All loads before the first use, and none of them behind a branch of its own: a load takes hundreds of cycles.
    if (gradient.triangle) {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
        other[e] = 0.0f;
        one[e] =
            to_float(matrix[packed_index(min(row, column), max(row, column), gradient.channels) * gradient.row_stride]);
      }
    } else {
#pragma unroll
      for (int e = 0; e < 8; ++e) {
        const int row = min(element_row(i, e), last), column = min(element_column(j, e), last);
        one[e] = to_float(matrix[row * gradient.row_stride + column * gradient.column_stride]);
        other[e] = to_float(matrix[column * gradient.row_stride + row * gradient.column_stride]);
      }
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = element_row(i, e), column = element_column(j, e);
      const float value = gradient.triangle && row == column ? 2.0f * one[e] : one[e] + other[e];
      twice.value[e] = row > last || column > last ? 0.0f : value;
    }
  });
  return twice;
}

}  // namespace gcp_kernels
