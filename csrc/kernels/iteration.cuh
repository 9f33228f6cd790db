// The Newton-Schulz iteration of docs/mathematics.md, for matrices with or without tangents.
//
//   square   V = W W                 (the first time also Y = 3/2 W - 1/2 V, since there Y = W = A)
//   cube     W <- 9/4 W - 3/2 V + 1/4 W V
//   root     Y <- 3/2 Y - 1/2 Y W    (the last time it is the result)
//
// in the order square, cube, root, square, cube, root, ..., root: 3N - 3 products for N iterations, or one, the square,
// for N = 1. With tangents each comes with d(L R) = dL R + L dR, first, since it needs the old L and R.
#pragma once

#include "workspace.cuh"

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

// sums = left right, or dL R + L dR for `tangent`, lifted twice.
template <bool kStreamed>
__device__ inline void multiply(const Workspace& workspace, const Factors& factors, bool tangent,
                                TileSums& sums) {
  clear(sums);
  const int planes = workspace.layout.planes;
  const int pairs = planes == 2 ? 3 : 1;
  for (int number = 0; number < (tangent ? 2 * pairs : pairs); ++number) {
    const int left = !tangent ? factors.left : number < pairs ? factors.d_left : factors.left;
    const int right = !tangent ? factors.right : number < pairs ? factors.right : factors.d_right;
    // Of two planes: low high, high low, and high high last, the largest.
    const int pair = number % pairs;
    const int left_plane = left * planes + (planes == 2 && pair == 0 ? 1 : 0);
    const int right_plane = right * planes + (planes == 2 && pair == 1 ? 1 : 0);
    multiply_planes<kStreamed>(workspace, left_plane, right_plane, sums);
  }
}

// Writes what the product changes in one block of the matrices, or of their tangents.
template <bool kStreamed, bool kTangents>
__device__ inline void update(const Workspace& workspace, Product product, bool first, bool tangent,
                              const BlockSum& sum, int block) {
  using M = Matrices<kTangents>;
  const int w = tangent ? M::kDW : M::kW, v = tangent ? M::kDV : M::kV, y = tangent ? M::kDY : M::kY;
  const bool root = product == Product::kRoot, square = product == Product::kSquare;
  const BlockSum old = load_elements<kStreamed>(workspace, root ? y : w, block);
  const float of_old = root ? 1.5f : square ? 0.0f : 2.25f;
  const float of_sum = root ? -0.5f : square ? 1.0f : 0.25f;
  BlockSum result = combine(of_old, old, of_sum * kUnlift, sum);
  if (product == Product::kCube) {
    result = combine(1.0f, result, -1.5f, load_elements<kStreamed>(workspace, v, block));
  }
  store_elements<kStreamed>(workspace, root ? y : square ? v : w, block, result);
  if (!first) return;
  const BlockSum linear = load_elements<kStreamed>(workspace, w, block);
  store_elements<kStreamed>(workspace, y, block, combine(1.5f, linear, -0.5f * kUnlift, sum));
}

// Runs the iteration on W = A, and on dW where there are tangents. Leaves Y_N, lifted, in float32, in the plane
// `root` and the next, and its tangent L split into two planes: the first of dW and the next.
template <bool kStreamed, bool kTangents>
__device__ inline void iterate(const Workspace& workspace, int n_iter, int root,
                               TileSums& sums) {
  using M = Matrices<kTangents>;
  const int last = n_iter == 1 ? 1 : 3 * n_iter - 3;
  for (int number = 1; number <= last; ++number) {
    const Product product = static_cast<Product>(number % 3);
    block_barrier();  // the matrices are written
    for (int tangent = kTangents; tangent >= 0; --tangent) {
      multiply<kStreamed>(workspace, factors_of<kTangents>(product), tangent, sums);
      block_barrier();  // the operands have been read
      for_each_block(workspace.tiles(), workspace.layout.blocks, sums, [&](const BlockSum& sum, int i, int j) {
        const int block = packed_index(i, j);
        if (number < last) {
          // Worked out for each block anew: beside the sums of a tile every register counts.
          const int again = recomputed(number);
          const Product product = static_cast<Product>(again % 3);
          update<kStreamed, kTangents>(workspace, product, again == 1, recomputed(tangent), sum, block);
          return;
        }
        // Where N is 1, Y is W = A still.
        const int y = n_iter == 1 ? (tangent ? M::kDW : M::kW) : (tangent ? M::kDY : M::kY);
        const BlockSum iterate = combine(1.5f, load_elements<kStreamed>(workspace, y, block), -0.5f * kUnlift, sum);
        if (tangent) {
          store_planes<kStreamed>(workspace, M::kDW * workspace.layout.planes, 2, block, iterate);
        } else {
          store_floats<kStreamed>(workspace, root, block, iterate);
        }
      });
    }
  }
}

}  // namespace gcp_kernels
