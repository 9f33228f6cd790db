// The matrices of iSQRT-COV pooling, and which of them share memory, checked at compile time.
#pragma once

#include "planes.h"

namespace gcp_kernels {

// In the order in which they are kept on chip.
template <bool kTangents>
struct Matrices {
  static constexpr Matrix kW{0};
  static constexpr Matrix kV{kTangents ? 2 : 1};
  static constexpr Matrix kY{kTangents ? 5 : 2};
  static constexpr Matrix kDW{1};
  static constexpr Matrix kDV{3};
  static constexpr Matrix kDY{4};
  // In "fast", what rounding to halves takes away from the tangents of W and Y. It enters the terms that are no
  // products: without it a gradient that is small beside the tangents in the null space of A loses a digit.
  static constexpr Matrix kDWRest{6};
  static constexpr Matrix kDYRest{7};
};

// --- what the forward pass keeps where something else was ---

// Y_N, in the planes of W and, where that is one, of V.
GCP_HOST_DEVICE constexpr Floats<1> forward_root() { return Floats<1>{Plane{0}}; }

// --- what the backward pass keeps where something else was ---

// L, in the planes of dW and, where that is one, of V.
template <bool kTangents>
GCP_HOST_DEVICE constexpr Split derivative_of(int planes) {
  return Split{plane_of(Matrices<kTangents>::kDW, planes)};
}
// G + G^T, in planes that are not in use before the iteration.
GCP_HOST_DEVICE constexpr Floats<0> gradient_floats(int planes) {
  return Floats<0>{plane_of(Matrices<true>::kV, planes)};
}
// The same in planes that nothing needs behind the last barrier of the iteration: of dV, or of the rests.
GCP_HOST_DEVICE constexpr Floats<0> gradient_floats_again(int planes) {
  return Floats<0>{planes == 2 ? plane_of(Matrices<true>::kDV, 2) : plane_of(Matrices<true>::kDWRest, 1)};
}
// Y_N, in two planes that are free by then.
GCP_HOST_DEVICE constexpr Floats<1> backward_root(int planes) {
  return Floats<1>{next(next(derivative_of<true>(planes).high))};
}

// What may share memory and what must not, checked for a number of planes.
template <int kPlanes>
struct CheckedMatrices {
  using F = Matrices<false>;
  using B = Matrices<true>;
  static constexpr PlaneRange of(Matrix matrix) { return range_of(matrix, kPlanes); }

  static_assert(F::kW == B::kW, "both passes begin alike");
  static_assert(!range_of(forward_root()).overlaps(of(F::kY)), "the root is written from Y");

  static_assert(!range_of(gradient_floats(kPlanes)).overlaps(of(B::kW)), "the gradient is loaded beside A");
  static_assert(!range_of(gradient_floats(kPlanes)).overlaps(of(B::kDW)), "the direction is written from the gradient");

  // L is written before Y_N is computed from Y and W, or from W alone, and is read to the end.
  static constexpr PlaneRange kL = range_of(derivative_of<true>(kPlanes));
  static constexpr PlaneRange kRoot = range_of(backward_root(kPlanes));
  static_assert(!kL.overlaps(of(B::kW)) && !kL.overlaps(of(B::kY)), "Y and W are read after L is written");
  static_assert(!kL.overlaps(of(B::kDY)), "L is written from dY");
  static_assert(!kL.overlaps(kRoot), "L is read to the end");
  static_assert(!kRoot.overlaps(of(B::kW)) && !kRoot.overlaps(of(B::kY)), "the root is written from Y or W");

  static constexpr PlaneRange kAgain = range_of(gradient_floats_again(kPlanes));
  static_assert(!kAgain.overlaps(kL) && !kAgain.overlaps(kRoot), "the gradient is read beside L and the root");
  static_assert(!kAgain.overlaps(of(B::kW)) && !kAgain.overlaps(of(B::kY)),
                "it is staged while others still write the root from Y or W");
  static_assert(!kAgain.overlaps(range_of(Split{Plane{0}})), "L is moved to the front beside the gradient");
  static_assert(kAgain.within(backward_pass(kPlanes).matrices* kPlanes));

  static_assert(of(F::kY).within(kForwardPass.operands* kPlanes));
  static_assert(kRoot.within(backward_pass(kPlanes).matrices* kPlanes));
  static_assert(range_of(gradient_floats(kPlanes)).within(backward_pass(kPlanes).matrices* kPlanes));
  static_assert(of(B::kY).within(backward_pass(kPlanes).operands* kPlanes));
};
static_assert(sizeof(CheckedMatrices<1>) > 0 && sizeof(CheckedMatrices<2>) > 0);

// Only in "fast" are there rests, which are no operands.
static_assert(range_of(Matrices<true>::kDYRest, 1).within(backward_pass(1).matrices));
static_assert(static_cast<int>(Matrices<true>::kDWRest) >= backward_pass(1).operands);

}  // namespace gcp_kernels
