// Upper triangles, the diagonal included, kept one after the other: how long they are, and where an element is.
#pragma once

#ifdef __CUDACC__
#define GCP_HOST_DEVICE __host__ __device__
#else
#define GCP_HOST_DEVICE
#endif

namespace gcp_kernels {

// Of a triangle of so many rows, its elements.
template <typename Int>
GCP_HOST_DEVICE constexpr Int triangle_number(Int rows) {
  return rows * (rows + 1) / 2;
}

// The packed index of an element, row <= column, that counts along rows: as in every tensor that holds a triangle.
template <typename Int>
GCP_HOST_DEVICE constexpr Int packed_index(Int row, Int column, Int side) {
  return row * side - row * (row - 1) / 2 + (column - row);
}

// The packed index of a block, i <= j, that counts along columns: so the blocks of one column are neighbours.
GCP_HOST_DEVICE constexpr int packed_block(int i, int j) { return triangle_number(j) + i; }

GCP_HOST_DEVICE constexpr int ceil_divide(int a, int b) { return (a + b - 1) / b; }

}  // namespace gcp_kernels
