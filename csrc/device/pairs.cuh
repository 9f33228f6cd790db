// Products of matrices in planes, as products of their planes.
#pragma once

namespace gcp_kernels {

// The pairs of planes of a product L R, in the order in which their products are summed: the low plane of L with the
// high one of R, high with low, and high with high last, the largest. That of the two low planes is left out. With a
// single plane there is only the last pair. A pair is a plain int, since it is all that lives across the products of a
// loop, and beside the sums of a tile every register counts:
//
//   for (int pair = first_pair(planes); pair < kPairs; ++pair)
constexpr int kPairs = 3;

__device__ inline int first_pair(int planes) { return planes == 2 ? 0 : kPairs - 1; }
__device__ inline bool left_is_low(int pair) { return pair == 0; }
__device__ inline bool right_is_low(int pair) { return pair == 1; }

}  // namespace gcp_kernels
