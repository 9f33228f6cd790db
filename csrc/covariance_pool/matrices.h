// What covariance pooling keeps in the planes behind its staged features, one plane for each matrix.
#pragma once

#include "planes.h"

namespace gcp_kernels {

// The covariance, from the sums of a tile.
constexpr GCP_HOST_DEVICE Floats<2> covariance_totals() { return {Plane{1}}; }
// G + G^T, which is then split in place: a block is read and written by the same thread.
constexpr GCP_HOST_DEVICE Floats<0> covariance_gradient() { return {Plane{1}}; }
constexpr GCP_HOST_DEVICE Split covariance_derivative() { return {Plane{1}}; }

static_assert(range_of(covariance_derivative()).first > 0,
              "features are staged before the derivative where it is streamed");
static_assert(range_of(covariance_totals()).within(kCovariancePass.matrices));
static_assert(range_of(covariance_derivative()).within(kCovariancePass.operands));

}  // namespace gcp_kernels
