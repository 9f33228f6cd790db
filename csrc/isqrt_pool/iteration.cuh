// The Newton-Schulz iteration of docs/mathematics.md, for matrices with or without tangents.
//
//   square   V = W W                 (the first time also Y = 3/2 W - 1/2 V, since there Y = W = A)
//   cube     W <- 9/4 W - 3/2 V + 1/4 W V
//   root     Y <- 3/2 Y - 1/2 Y W    (the last time it is the result)
//
// in the order square, cube, root, square, cube, root, ..., root: 3N - 3 products for N iterations, or one, the square,
// for N = 1. From N = 3 on the last two iterations are one: the root before the last is left out, and the three
// products behind it become
//
//   square   V = W W                 and W <- 9/4 W - 1/4 V
//   cube     W <- 13/12 W - 17/12 V + 1/4 W V, of which 9/4 I - W is the product of the last two factors T
//   root     Y <- 9/4 Y - Y W
//
// With tangents each comes with d(L R) = dL R + L dR, first, since it needs the old L and R.
#pragma once

#include "device/pairs.cuh"
#include "device/stream.cuh"
#include "isqrt_pool/factor.cuh"
#include "isqrt_pool/matrices.h"

namespace gcp_kernels {

enum class Product { kRoot = 0, kSquare = 1, kCube = 2 };

// Whether the last two iterations are one. Beside the tangents of Y they are not: dY_N has Y dW in it, of which dW
// would be twice as large, and so would be what rounding takes from it (docs/mathematics.md).
template <bool kTangents, bool kFactor>
constexpr bool kTwoInOne = !kTangents || kFactor;

// The products are numbered in the order above, in which the root that is left out has a number too: this one, or one
// that no product has.
template <bool kTwoInOne>
__device__ inline int left_out(int n_iter) {
  const int n = recomputed(n_iter);
  return kTwoInOne && n > 2 ? 3 * n - 6 : 3 * n;
}

// The number of the last one, or 0 where there is none. Z_1 takes none.
template <bool kFactor>
__device__ inline int last_product(int n_iter) {
  const int n = recomputed(n_iter);
  return n == 1 && !kFactor ? 1 : 3 * n - 3;
}

// What a product makes of a matrix X: a X + b product + c times a third matrix. This is V for the cube; for the root it
// is W times identity_of(), and only for the factor, which is kept without that multiple of the identity.
struct Coefficients {
  float a, b, c;
};

// By product, then those of the last two iterations in one.
__constant__ constexpr Coefficients kCoefficients[6] = {
    {1.5f, -0.5f, -0.5f},  {1.5f, -0.5f, 0.0f},   {2.25f, 0.25f, -1.5f},
    {2.25f, -1.0f, -1.0f}, {2.25f, -0.25f, 0.0f}, {13.0f / 12.0f, 0.25f, -17.0f / 12.0f},
};

// Looked up where there are all six: chosen with conditions they would take registers.
template <bool kTwoInOne>
__device__ inline Coefficients coefficients_of(Product product, bool of_two) {
  constexpr int kRoot = static_cast<int>(Product::kRoot), kCube = static_cast<int>(Product::kCube);
  if (!kTwoInOne) return product == Product::kCube ? kCoefficients[kCube] : kCoefficients[kRoot];
  return kCoefficients[static_cast<int>(product) + (of_two ? 3 : 0)];
}

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
  const WarpTile<kForm> tile = workspace.tile<kForm>();
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
    multiply_planes<kForm>(workspace, tile, left_plane, right_plane, sums);
  }
}

// Of W or Y, or of its tangent, the plane that products read and the one behind it: in "high" its low plane, in "fast"
// the rest of a tangent. In "fast" W and Y have none.
template <Form kForm, int kPlanes, bool kTangents, bool kFactor = false>
struct TermShares {
  using M = Matrices<kTangents>;

  PlaneShare<kForm> high, low;

  __device__ TermShares(const Workspace& workspace, bool y, bool tangent)
      : high(workspace, plane_of(matrix(y, tangent), kPlanes)),
        low(workspace,
            kPlanes == 2 ? next(plane_of(matrix(y, tangent), 2)) : plane_of(y ? M::kDYRest : M::kDWRest, 1)) {}
  __device__ TermShares(const Workspace& workspace, Plane first)
      : high(workspace, first), low(workspace, next(first)) {}

  __device__ static Matrix matrix(bool y, bool tangent) {
    return y ? (tangent ? M::kDY : M::kY) : (tangent ? M::kDW : M::kW);
  }

  __device__ static bool split(bool tangent) { return kPlanes == 2 || (kTangents && tangent && !kFactor); }
};

// W or Y, or its tangent, as it enters the terms that are no products.
template <Form kForm, int kPlanes, bool kTangents>
__device__ inline void store_term(const Workspace& workspace, bool y, bool tangent, int block,
                                  const LiftedBlock<1>& elements) {
  using Shares = TermShares<kForm, kPlanes, kTangents>;
  const Shares to(workspace, y, tangent);
  if (Shares::split(tangent)) {
    store_split(to.high, to.low, block, elements);
  } else {
    to.high.store(block, packed(elements));
  }
}

// Where the last product leaves its result: the first plane of it.
template <int kPlanes, bool kTangents, bool kFactor>
__device__ inline Plane result_of(bool tangent, Floats<1> root) {
  if (kFactor) return tangent ? factor_derivative(kPlanes).high : factor_split().high;
  return tangent ? derivative_of<kTangents>(kPlanes).high : root.first;
}

// Writes what product `number` changes in this warp's blocks of the matrices, or of their tangents.
template <Form kForm, int kPlanes, bool kTangents, bool kFactor>
__device__ inline void update(const Workspace& workspace, int n_iter, int number, bool last, bool tangent,
                              Floats<1> root, TileSums<kForm>& sums) {
  using M = Matrices<kTangents>;
  using Shares = TermShares<kForm, kPlanes, kTangents, kFactor>;
  const Product product = static_cast<Product>(number % 3);
  constexpr bool kTwo = kTwoInOne<kTangents, kFactor>;
  const bool of_two = kTwo && number > left_out<kTwo>(n_iter);
  const bool square = product == Product::kSquare, cube = product == Product::kCube;
  const Matrix v = tangent ? M::kDV : M::kV;
  if (square && !last) {
    for_each_packed_block<kForm>(workspace, sums, [&](const LiftedBlock<2>& sum, int block) {
      store_elements<kForm, kPlanes>(workspace, v, block, times(unlift(), sum));
    });
    if (!of_two && (kFactor || number != 1)) return;
  }
  const bool floats = last && !tangent && !kFactor, third = cube || (kFactor && !square);
  // Asked for each block once more: kept for all of them, they would take a predicate each.
  constexpr int kThird = 1, kSplit = 2, kFloats = 4, kSplitResult = kFactor ? 8 : kSplit;
  const bool split_result = kFactor && (kPlanes == 2 || (kTangents && last));
  const int kept = (third ? kThird : 0) | (Shares::split(tangent) ? kSplit : 0) | (floats ? kFloats : 0) |
                   (split_result ? kSplitResult : 0);
  Coefficients of = coefficients_of<kTwo>(product, of_two);
  if (kFactor && !cube) of.c *= identity_of(n_iter, number / 3 - (of_two ? 1 : 0));
  const Shares from(workspace, product == Product::kRoot, tangent);
  const Shares to = last ? Shares(workspace, result_of<kPlanes, kTangents, kFactor>(tangent, root))
                         : Shares(workspace, !cube && !(square && of_two), tangent);
  for_each_packed_block<kForm>(workspace, sums, [&](const LiftedBlock<2>& sum, int block) {
    const int kind = recomputed(kept);
    const bool split = kPlanes == 2 || (kTangents && (kind & kSplit));
    LiftedBlock<1> term = split ? load_split(from.high, from.low, block) : unpacked(from.high.load(block));
    term = combine(plain(of.a), term, of.b * unlift(), sum);
    if (kind & kThird) {
      const Matrix w = recomputed(tangent) ? M::kDW : M::kW, third_matrix = !kFactor || recomputed(cube) ? v : w;
      term = combine(1.0f, term, of.c, load_elements<kForm, kPlanes>(workspace, third_matrix, block));
    }
    if (kind & kFloats) {
      store_floats<kForm>(workspace, root, block, term);
    } else if (kPlanes == 2 || (kTangents && (kind & kSplitResult))) {
      store_split(to.high, to.low, block, term);
    } else {
      to.high.store(block, packed(term));
    }
  });
}

// Runs the iteration on W = A, and on dW where there are tangents. Leaves Y_N in `root`, and its tangent L in
// derivative_of(). With kFactor the iteration is that of the factor q(K), on W = K and, in the place of Y, Z = Z_1: it
// and its tangent are left where store_factor() leaves them.
// Inlined whatever its size: behind a call the sums would be in memory.
template <Form kForm, int kPlanes, bool kTangents, bool kFactor = false>
__device__ __forceinline__ void iterate(const Workspace& workspace, int n_iter, Floats<1> root, TileSums<kForm>& sums) {
#pragma unroll 1
  for (int number = 1; number <= last_product<kFactor>(n_iter); ++number) {
    if (number == left_out<kTwoInOne<kTangents, kFactor>>(n_iter)) ++number;
    block_barrier();  // the matrices are written
#pragma unroll 1
    for (int tangent = kTangents; tangent >= 0; --tangent) {
      multiply<kForm, kPlanes, kTangents>(workspace, number, tangent, sums);
      block_barrier();  // the operands have been read
      update<kForm, kPlanes, kTangents, kFactor>(workspace, n_iter, number, number == last_product<kFactor>(n_iter),
                                                 tangent, root, sums);
    }
  }
}

}  // namespace gcp_kernels
