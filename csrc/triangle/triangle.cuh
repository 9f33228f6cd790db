// Upper triangle of a batch of square matrices, row-major, diagonal included: out to a vector and back.
//
//   triu_vec     v[k(i,j)] = m[i,j]  (i <= j)     with fold:   + m[j,i]  (i < j)
//   triu_unvec   m[i,j] = v[k(i,j)]  (i <= j)     below the diagonal: m[j,i] with mirror, else 0
//   k(i,j) = i C - i(i-1)/2 + (j - i),   0 <= k < D = C(C+1)/2
//
// Each is linear, and the other one is its transpose: reading without fold is the adjoint of writing
// without mirror, reading with fold that of writing with mirror. So these two kernels are the forward and
// the backward pass of both public functions.
//
// Both are copies, bound by memory. A row of the vector is contiguous along j, and so is a row of the
// matrix, but the mirrored element m[j,i] of neighbouring j lies a whole row away. So a block owns one
// 32x32 tile (ti <= tj) together with its mirror image (tj, ti), and shared memory does the transposition:
// global memory is read and written along rows only. Tiles below the diagonal have no block of their own.
// A matrix that arrives transposed is read along its columns, for the same reason.
//
// Nothing here knows torch, streams or how a grid was chosen: any grid of kTileSide x kRowsInFlight blocks is
// right, because blocks stride over the batch (grid.x) and over the tiles (grid.y). Offsets are 64-bit.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cmath>
#include <cstdint>

#include "packed.h"

namespace gcp_kernels {

constexpr int kTileSide = 32;              // one warp reads one row of a tile
constexpr int kRowsInFlight = 8;           // of a tile: a block is 32 x 8 threads
constexpr int kTilePitch = kTileSide + 1;  // the odd pitch keeps reading a column free of bank conflicts

template <typename T>
using Tile = T[kTileSide][kTilePitch];

// A (batch, C, C) input of any strides; strides count elements and are never negative.
template <typename T>
struct StridedMatrices {
  const T* data;
  std::int64_t batch_stride;
  std::int64_t row_stride;
  std::int64_t column_stride;
};

// A (batch, D) input of any strides.
template <typename T>
struct StridedVectors {
  const T* data;
  std::int64_t batch_stride;
  std::int64_t element_stride;
};

struct TriangleShape {
  std::int64_t batch;
  std::int32_t channels;
};

// The sum of two stored values. Halves are added in float and rounded once, as torch does.
__device__ inline float sum(float a, float b) { return a + b; }
__device__ inline double sum(double a, double b) { return a + b; }
__device__ inline __half sum(__half a, __half b) { return __float2half_rn(__half2float(a) + __half2float(b)); }
__device__ inline __nv_bfloat16 sum(__nv_bfloat16 a, __nv_bfloat16 b) {
  return __float2bfloat16_rn(__bfloat162float(a) + __bfloat162float(b));
}

template <typename T>
__device__ inline T zero() {
  return static_cast<T>(0);
}
template <>
__device__ inline __half zero<__half>() {
  return __float2half_rn(0.0f);
}
template <>
__device__ inline __nv_bfloat16 zero<__nv_bfloat16>() {
  return __float2bfloat16_rn(0.0f);
}

__host__ __device__ inline std::int32_t tiles_per_side(std::int32_t channels) {
  return (channels + kTileSide - 1) / kTileSide;
}

struct TilePosition {
  std::int32_t row;     // first matrix row of the tile
  std::int32_t column;  // first matrix column, never left of the row
};

// Tiles are numbered down the columns of the upper triangle of tiles: number = tj(tj+1)/2 + ti.
__device__ inline TilePosition tile_position(std::int64_t number) {
  // The float root is within one of the column; the two loops make it exact.
  auto column = static_cast<std::int64_t>((sqrtf(8.0f * static_cast<float>(number) + 1.0f) - 1.0f) * 0.5f);
  while (triangle_number(column) > number) --column;
  while (triangle_number(column + 1) <= number) ++column;
  const std::int64_t row = number - triangle_number(column);
  return {static_cast<std::int32_t>(row * kTileSide), static_cast<std::int32_t>(column * kTileSide)};
}

// tile[r][c] = matrix[row + r, column + c]; what lies outside the matrix is left as it was.
template <typename T>
__device__ void load_tile(Tile<T>& tile, const T* matrix, std::int64_t row_stride, std::int64_t column_stride,
                          std::int32_t row, std::int32_t column, std::int32_t channels) {
  const bool along_columns = row_stride < column_stride;
  for (int step = threadIdx.y; step < kTileSide; step += kRowsInFlight) {
    const int r = along_columns ? threadIdx.x : step;
    const int c = along_columns ? step : threadIdx.x;
    const std::int64_t i = row + r;
    const std::int64_t j = column + c;
    if (i < channels && j < channels) tile[r][c] = matrix[i * row_stride + j * column_stride];
  }
}

// vector: (batch, D) contiguous.
template <typename T>
__global__ void triu_vec_kernel(StridedMatrices<T> matrices, T* __restrict__ vectors, TriangleShape shape, bool fold) {
  __shared__ Tile<T> upper;
  __shared__ Tile<T> lower;
  const std::int32_t channels = shape.channels;
  const std::int64_t tiles = triangle_number<std::int64_t>(tiles_per_side(channels));

  for (std::int64_t sample = blockIdx.x; sample < shape.batch; sample += gridDim.x) {
    const T* matrix = matrices.data + sample * matrices.batch_stride;
    T* vector = vectors + sample * triangle_number<std::int64_t>(channels);
    for (std::int64_t number = blockIdx.y; number < tiles; number += gridDim.y) {
      const TilePosition at = tile_position(number);
      const bool diagonal = at.row == at.column;
      load_tile<T>(upper, matrix, matrices.row_stride, matrices.column_stride, at.row, at.column, channels);
      if (fold && !diagonal) {
        load_tile<T>(lower, matrix, matrices.row_stride, matrices.column_stride, at.column, at.row, channels);
      }
      __syncthreads();  // the tiles are complete
      const int c = threadIdx.x;
      const std::int64_t j = at.column + c;
      for (int r = threadIdx.y; r < kTileSide; r += kRowsInFlight) {
        const std::int64_t i = at.row + r;
        if (j < channels && i <= j) {
          T value = upper[r][c];
          if (fold && i < j) value = sum(value, diagonal ? upper[c][r] : lower[c][r]);
          vector[packed_index<std::int64_t>(i, j, channels)] = value;
        }
      }
      __syncthreads();  // the tiles may be overwritten
    }
  }
}

// matrix: (batch, C, C) contiguous; every element is written.
template <typename T>
__global__ void triu_unvec_kernel(StridedVectors<T> vectors, T* __restrict__ matrices, TriangleShape shape,
                                  bool mirror) {
  __shared__ Tile<T> upper;
  const std::int64_t channels = shape.channels;
  const std::int64_t tiles = triangle_number<std::int64_t>(tiles_per_side(shape.channels));
  const int c = threadIdx.x;

  for (std::int64_t sample = blockIdx.x; sample < shape.batch; sample += gridDim.x) {
    const T* vector = vectors.data + sample * vectors.batch_stride;
    T* matrix = matrices + sample * channels * channels;
    for (std::int64_t number = blockIdx.y; number < tiles; number += gridDim.y) {
      const TilePosition at = tile_position(number);
      for (int r = threadIdx.y; r < kTileSide; r += kRowsInFlight) {
        const std::int64_t i = at.row + r;
        const std::int64_t j = at.column + c;
        if (j < channels && i <= j) {
          upper[r][c] = vector[packed_index<std::int64_t>(i, j, channels) * vectors.element_stride];
        }
      }
      __syncthreads();  // the tile is complete
      for (int r = threadIdx.y; r < kTileSide; r += kRowsInFlight) {
        const std::int64_t i = at.row + r;
        const std::int64_t j = at.column + c;
        if (i < channels && j < channels && i <= j) matrix[i * channels + j] = upper[r][c];
        // Row r of the mirror image, which for a tile on the diagonal is the tile itself.
        const std::int64_t mirrored_i = at.column + r;
        const std::int64_t mirrored_j = at.row + c;
        if (mirrored_i < channels && mirrored_j < mirrored_i) {
          matrix[mirrored_i * channels + mirrored_j] = mirror ? upper[c][r] : zero<T>();
        }
      }
      __syncthreads();  // the tile may be overwritten
    }
  }
}

}  // namespace gcp_kernels
