// What iSQRT-COV pooling on the side of the positions keeps where something else was, checked at compile time. Its
// matrices are those of the channels' side with Z in the place of Y, without rests.
#pragma once

#include "isqrt_pool/matrices.h"
#include "isqrt_pool/positions/layout.h"

namespace gcp_kernels {

// q(K), split backward: in the planes of W and, where that is one, of what follows.
GCP_HOST_DEVICE constexpr Split factor_split() { return Split{Plane{0}}; }
// L, written while W, Z and their tangents are still operands: in the planes of V and, where that is one, of dV.
GCP_HOST_DEVICE constexpr Split factor_derivative(int planes) { return Split{plane_of(Matrices<true>::kV, planes)}; }

template <int kPlanes>
struct CheckedFactorMatrices {
  using B = Matrices<true>;
  static constexpr PlaneRange of(Matrix matrix) { return range_of(matrix, kPlanes); }
  static constexpr PlaneRange kL = range_of(factor_derivative(kPlanes));

  static_assert(!kL.overlaps(of(B::kW)) && !kL.overlaps(of(B::kY)), "Z and W are read after L is written");
  static_assert(!kL.overlaps(of(B::kDW)) && !kL.overlaps(of(B::kDY)), "and so are their tangents");
  static_assert(!range_of(factor_split()).overlaps(kL), "both are read to the end");
  static_assert(!range_of(factor_split()).overlaps(of(B::kY)), "the factor is written from Z");
  static_assert(of(B::kY).within(kPositionsBackwardPass.operands* kPlanes));
  static_assert(of(B::kDY).within(kPositionsBackwardPass.operands* kPlanes));
};
static_assert(sizeof(CheckedFactorMatrices<1>) > 0 && sizeof(CheckedFactorMatrices<2>) > 0);

}  // namespace gcp_kernels
