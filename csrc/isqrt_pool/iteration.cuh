// The Newton-Schulz iteration of docs/mathematics.md, for matrices with or without tangents.
//
//   square   V = W W                 (the first time also Y = 3/2 W - 1/2 V, since there Y = W = A)
//   cube     W <- 9/4 W - 3/2 V + 1/4 W V
//   root     Y <- 3/2 Y - 1/2 Y W    (the last time it is the result)
//
// in the order square, cube, root, square, cube, root, ..., root: 3N - 3 products for N iterations, or one, the square,
// for N = 1. With tangents each comes with d(L R) = dL R + L dR, first, since it needs the old L and R.
#pragma once

#include "device/stream.cuh"

namespace gcp_kernels {

enum class Product { kRoot = 0, kSquare = 1, kCube = 2 };

// Numbers of the matrices, in the order in which they are kept on chip.
template <bool kTangents>
struct Matrices {
  static constexpr int kW = 0;
  static constexpr int kV = kTangents ? 2 : 1;
  static constexpr int kY = kTangents ? 5 : 2;
  static constexpr int kDW = 1;
  static constexpr int kDV = 3;
  static constexpr int kDY = 4;
  // In "fast", what rounding to halves takes away from the tangents of W and Y. It enters the terms that are no
  // products: without it a gradient that is small beside the tangents in the null space of A loses a digit.
  static constexpr int kDWRest = 6;
  static constexpr int kDYRest = 7;
};

// What one product reads and changes.
struct Factors {
  int left, right;      // matrices
  int d_left, d_right;  // their tangents
};

template <bool kTangents>
__device__ inline Factors factors_of(Product product) {
  using M = Matrices<kTangents>;
  if (product == Product::kRoot) return {M::kY, M::kW, M::kDY, M::kDW};
  if (product == Product::kSquare) return {M::kW, M::kW, M::kDW, M::kDW};
  return {M::kW, M::kV, M::kDW, M::kDV};
}

// sums = left right, or dL R + L dR for `tangent`, lifted twice, of the factors of product number `product`.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void multiply(const Workspace& workspace, int product, bool tangent, TileSums<kForm>& sums) {
  clear(sums);
  constexpr int pairs = kPlanes == 2 ? 3 : 1;
#pragma unroll 1
  for (int number = 0; number < (tangent ? 2 * pairs : pairs); ++number) {
    // Found anew for each pair of planes: beside the sums of a tile every register counts.
    const Factors factors = factors_of<kTangents>(static_cast<Product>(recomputed(product) % 3));
    const int left = !tangent ? factors.left : number < pairs ? factors.d_left : factors.left;
    const int right = !tangent ? factors.right : number < pairs ? factors.right : factors.d_right;
    // Of two planes: low high, high low, and high high last, the largest.
    const int pair = number % pairs;
    const int left_plane = left * kPlanes + (kPlanes == 2 && pair == 0 ? 1 : 0);
    const int right_plane = right * kPlanes + (kPlanes == 2 && pair == 1 ? 1 : 0);
    multiply_planes<kForm>(workspace, left_plane, right_plane, sums);
  }
}

// W or Y, or its tangent, as it enters the terms that are no products.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline BlockSum load_term(const Workspace& workspace, bool y, bool tangent, int block) {
  using M = Matrices<kTangents>;
  const int matrix = y ? (tangent ? M::kDY : M::kY) : (tangent ? M::kDW : M::kW);
  BlockSum elements = load_elements<kForm, kPlanes>(workspace, matrix, block);
  if (kTangents && kPlanes == 1 && tangent) {
    const int rest = y ? M::kDYRest : M::kDWRest;
    elements = combine(1.0f, elements, 1.0f, load_planes<kForm, 1>(workspace, rest, block));
  }
  return elements;
}

template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void store_term(const Workspace& workspace, bool y, bool tangent, int block,
                                  const BlockSum& elements) {
  using M = Matrices<kTangents>;
  const int matrix = y ? (tangent ? M::kDY : M::kY) : (tangent ? M::kDW : M::kW);
  if (kTangents && kPlanes == 1 && tangent) {
    store_split<kForm>(workspace, matrix, y ? M::kDYRest : M::kDWRest, block, elements);
  } else {
    store_elements<kForm, kPlanes>(workspace, matrix, block, elements);
  }
}

// Writes what product `number` changes in one block of the matrices, or of their tangents.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void update(const Workspace& workspace, int number, bool tangent, const BlockSum& sum, int block) {
  using M = Matrices<kTangents>;
  const Product product = static_cast<Product>(number % 3);
  const int v = tangent ? M::kDV : M::kV;
  if (product == Product::kSquare) {
    store_elements<kForm, kPlanes>(workspace, v, block, times(kUnlift, sum));
    if (number != 1) return;
    const BlockSum linear = load_term<kForm, kPlanes, kTangents>(workspace, false, tangent, block);
    store_term<kForm, kPlanes, kTangents>(workspace, true, tangent, block, combine(1.5f, linear, -0.5f * kUnlift, sum));
    return;
  }
  const bool root = product == Product::kRoot;
  const BlockSum old = load_term<kForm, kPlanes, kTangents>(workspace, root, tangent, block);
  BlockSum result = combine(root ? 1.5f : 2.25f, old, (root ? -0.5f : 0.25f) * kUnlift, sum);
  if (!root) result = combine(1.0f, result, -1.5f, load_elements<kForm, kPlanes>(workspace, v, block));
  store_term<kForm, kPlanes, kTangents>(workspace, root, tangent, block, result);
}

// The last product, from Y or, where it is the only one, from W = A.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void finish(const Workspace& workspace, bool only, bool tangent, int root, const BlockSum& sum,
                              int block) {
  const BlockSum old = load_term<kForm, kPlanes, kTangents>(workspace, !only, tangent, block);
  const BlockSum result = combine(1.5f, old, -0.5f * kUnlift, sum);
  if (tangent) {
    store_planes<kForm, 2>(workspace, Matrices<kTangents>::kDW * kPlanes, block, result);
  } else {
    store_floats<kForm>(workspace, root, block, result);
  }
}

// How many products N iterations take; worked out anew wherever it is asked for.
__device__ inline int last_product(int n_iter) {
  const int n = recomputed(n_iter);
  return n == 1 ? 1 : 3 * n - 3;
}

// Runs the iteration on W = A, and on dW where there are tangents. Leaves Y_N, lifted, in float32, in the plane
// `root` and the next, and its tangent L split into two planes: the first of dW and the next.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void iterate(const Workspace& workspace, int n_iter, int root, TileSums<kForm>& sums) {
#pragma unroll 1
  for (int number = 1; number <= last_product(n_iter); ++number) {
    block_barrier();  // the matrices are written
#pragma unroll 1
    for (int tangent = kTangents; tangent >= 0; --tangent) {
      multiply<kForm, kPlanes, kTangents>(workspace, number, tangent, sums);
      block_barrier();  // the operands have been read
      for_each_block<kForm>(workspace, sums, [&](const BlockSum& sum, int i, int j) {
        const int block = packed_block(i, j);
        // Worked out for each block anew: beside the sums of a tile every register counts.
        const int again = recomputed(number), last = last_product(n_iter);
        if (again < last) {
          update<kForm, kPlanes, kTangents>(workspace, again, recomputed(tangent), sum, block);
        } else {
          finish<kForm, kPlanes, kTangents>(workspace, last == 1, recomputed(tangent), root, sum, block);
        }
      });
    }
  }
}

}  // namespace gcp_kernels
