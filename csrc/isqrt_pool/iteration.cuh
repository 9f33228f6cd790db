// The Newton-Schulz iteration of docs/mathematics.md, for matrices with or without tangents.
//
//   square   V = W W                 (the first time also Y = 3/2 W - 1/2 V, since there Y = W = A)
//   cube     W <- 9/4 W - 3/2 V + 1/4 W V
//   root     Y <- 3/2 Y - 1/2 Y W    (the last time it is the result)
//
// in the order square, cube, root, square, cube, root, ..., root: 3N - 3 products for N iterations, or one, the square,
// for N = 1. With tangents each comes with d(L R) = dL R + L dR, first, since it needs the old L and R.
#pragma once

#include "device/pairs.cuh"
#include "device/stream.cuh"
#include "isqrt_pool/matrices.h"

namespace gcp_kernels {

enum class Product { kRoot = 0, kSquare = 1, kCube = 2 };

// What one product reads and changes.
struct Factors {
  Matrix left, right;
  Matrix d_left, d_right;  // their tangents
};

template <bool kTangents>
__device__ inline Factors factors_of(Product product) {
  using M = Matrices<kTangents>;
  if (product == Product::kRoot) return {M::kY, M::kW, M::kDY, M::kDW};
  if (product == Product::kSquare) return {M::kW, M::kW, M::kDW, M::kDW};
  return {M::kW, M::kV, M::kDW, M::kDV};
}

// sums = left right, or dL R + L dR for `tangent`, of the factors of product number `product`.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void multiply(const Workspace& workspace, int product, bool tangent, TileSums<kForm>& sums) {
  clear(sums);
  constexpr int kPairsOfEach = kPlanes == 2 ? kPairs : 1;
#pragma unroll 1
  for (int number = 0; number < (tangent ? 2 * kPairsOfEach : kPairsOfEach); ++number) {
    // Found for each pair of planes once more: beside the sums of a tile every register counts.
    const Factors factors = factors_of<kTangents>(static_cast<Product>(recomputed(product) % 3));
    const Matrix left = !tangent ? factors.left : number < kPairsOfEach ? factors.d_left : factors.left;
    const Matrix right = !tangent ? factors.right : number < kPairsOfEach ? factors.right : factors.d_right;
    const int pair = kPairs - kPairsOfEach + number % kPairsOfEach;
    // Of each the high plane, or the low one behind it. Spelled out: through plane_of() the streamed form becomes
    // another program.
    const auto left_plane =
        static_cast<Plane>(static_cast<int>(left) * kPlanes + (kPlanes == 2 && left_is_low(pair) ? 1 : 0));
    const auto right_plane =
        static_cast<Plane>(static_cast<int>(right) * kPlanes + (kPlanes == 2 && right_is_low(pair) ? 1 : 0));
    multiply_planes<kForm>(workspace, left_plane, right_plane, sums);
  }
}

// W or Y, or its tangent, as it enters the terms that are no products.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline LiftedBlock<1> load_term(const Workspace& workspace, bool y, bool tangent, int block) {
  using M = Matrices<kTangents>;
  const Matrix matrix = y ? (tangent ? M::kDY : M::kY) : (tangent ? M::kDW : M::kW);
  LiftedBlock<1> elements = load_elements<kForm, kPlanes>(workspace, matrix, block);
  if (kTangents && kPlanes == 1 && tangent) {
    const Matrix rest = y ? M::kDYRest : M::kDWRest;
    elements = combine(1.0f, elements, 1.0f, load_elements<kForm, 1>(workspace, rest, block));
  }
  return elements;
}

template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void store_term(const Workspace& workspace, bool y, bool tangent, int block,
                                  const LiftedBlock<1>& elements) {
  using M = Matrices<kTangents>;
  const Matrix matrix = y ? (tangent ? M::kDY : M::kY) : (tangent ? M::kDW : M::kW);
  if (kTangents && kPlanes == 1 && tangent) {
    store_split<kForm>(workspace, plane_of(matrix, 1), plane_of(y ? M::kDYRest : M::kDWRest, 1), block, elements);
  } else {
    store_elements<kForm, kPlanes>(workspace, matrix, block, elements);
  }
}

// Writes what product `number` changes in one block of the matrices, or of their tangents.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void update(const Workspace& workspace, int number, bool tangent, const LiftedBlock<2>& sum,
                              int block) {
  using M = Matrices<kTangents>;
  const Product product = static_cast<Product>(number % 3);
  const Matrix v = tangent ? M::kDV : M::kV;
  if (product == Product::kSquare) {
    store_elements<kForm, kPlanes>(workspace, v, block, times(unlift(), sum));
    if (number != 1) return;
    const LiftedBlock<1> linear = load_term<kForm, kPlanes, kTangents>(workspace, false, tangent, block);
    store_term<kForm, kPlanes, kTangents>(workspace, true, tangent, block,
                                          combine(plain(1.5f), linear, -0.5f * unlift(), sum));
    return;
  }
  const bool root = product == Product::kRoot;
  const LiftedBlock<1> old = load_term<kForm, kPlanes, kTangents>(workspace, root, tangent, block);
  LiftedBlock<1> result = combine(plain(root ? 1.5f : 2.25f), old, (root ? -0.5f : 0.25f) * unlift(), sum);
  if (!root) result = combine(1.0f, result, -1.5f, load_elements<kForm, kPlanes>(workspace, v, block));
  store_term<kForm, kPlanes, kTangents>(workspace, root, tangent, block, result);
}

// The last product, from Y or, where it is the only one, from W = A.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void finish(const Workspace& workspace, bool only, bool tangent, Floats<1> root,
                              const LiftedBlock<2>& sum, int block) {
  const LiftedBlock<1> old = load_term<kForm, kPlanes, kTangents>(workspace, !only, tangent, block);
  const LiftedBlock<1> result = combine(plain(1.5f), old, -0.5f * unlift(), sum);
  if (tangent) {
    store_split<kForm>(workspace, derivative_of<kTangents>(kPlanes), block, result);
  } else {
    store_floats<kForm>(workspace, root, block, result);
  }
}

// How many products N iterations take; worked out wherever it is asked for.
__device__ inline int last_product(int n_iter) {
  const int n = recomputed(n_iter);
  return n == 1 ? 1 : 3 * n - 3;
}

// Runs the iteration on W = A, and on dW where there are tangents. Leaves Y_N in `root`, and its tangent L in
// derivative_of().
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void iterate(const Workspace& workspace, int n_iter, Floats<1> root, TileSums<kForm>& sums) {
#pragma unroll 1
  for (int number = 1; number <= last_product(n_iter); ++number) {
    block_barrier();  // the matrices are written
#pragma unroll 1
    for (int tangent = kTangents; tangent >= 0; --tangent) {
      multiply<kForm, kPlanes, kTangents>(workspace, number, tangent, sums);
      block_barrier();  // the operands have been read
      for_each_block<kForm>(workspace, sums, [&](const LiftedBlock<2>& sum, int i, int j) {
        const int block = packed_block(i, j);
        // Worked out for each block once more: beside the sums of a tile every register counts.
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
