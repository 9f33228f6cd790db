// Numbers and blocks times a power of 2^6, which their types count.
//
// Elements are lifted by 2^6 before they are rounded to halves, which keeps the low planes of matrices with elements
// near 1/C out of the subnormal range of halves; no matrix of the iteration grows beyond their range
// (docs/mathematics.md). Products of lifted elements are lifted twice, and so on: what is added must be lifted alike,
// and what leaves the kernel must not be lifted at all, or it does not compile.
#pragma once

#include "device/primitives.cuh"

namespace gcp_kernels {

// A number times 2^(6 kTimes).
template <int kTimes>
struct Lifted {
  float value;
};

// A lane's share of a block, each element times 2^(6 kTimes).
template <int kTimes>
struct LiftedBlock : BlockSum {};

__device__ constexpr Lifted<1> lift() { return {64.0f}; }
__device__ constexpr Lifted<-1> unlift() { return {1.0f / 64.0f}; }
__device__ constexpr Lifted<0> plain(float value) { return {value}; }
__device__ constexpr float number(Lifted<0> plain) { return plain.value; }

template <int kOne, int kOther>
__device__ constexpr Lifted<kOne + kOther> operator*(Lifted<kOne> one, Lifted<kOther> other) {
  return {one.value * other.value};
}
template <int kTimes>
__device__ constexpr Lifted<kTimes> operator*(float factor, Lifted<kTimes> lifted) {
  return {factor * lifted.value};
}
template <int kTimes>
__device__ constexpr Lifted<kTimes> operator*(Lifted<kTimes> lifted, float factor) {
  return {lifted.value * factor};
}
template <int kTimes>
__device__ constexpr Lifted<kTimes> operator/(Lifted<kTimes> lifted, float divisor) {
  return {lifted.value / divisor};
}

// a x, element by element.
template <int kFactor, int kTimes>
__device__ inline LiftedBlock<kFactor + kTimes> times(Lifted<kFactor> a, const LiftedBlock<kTimes>& x) {
  LiftedBlock<kFactor + kTimes> result;
#pragma unroll
  for (int e = 0; e < 8; ++e) result.value[e] = a.value * x.value[e];
  return result;
}

// a x + b y, element by element.
template <int kA, int kX, int kB, int kY>
__device__ inline LiftedBlock<kA + kX> combine(Lifted<kA> a, const LiftedBlock<kX>& x, Lifted<kB> b,
                                               const LiftedBlock<kY>& y) {
  static_assert(kA + kX == kB + kY, "what is added must be lifted alike");
  LiftedBlock<kA + kX> result;
#pragma unroll
  for (int e = 0; e < 8; ++e) result.value[e] = a.value * x.value[e] + b.value * y.value[e];
  return result;
}

template <int kX, int kY>
__device__ inline LiftedBlock<kX> combine(float a, const LiftedBlock<kX>& x, float b, const LiftedBlock<kY>& y) {
  return combine(plain(a), x, plain(b), y);
}

template <int kSums, int kTimes>
__device__ inline void clear(LiftedBlock<kTimes> (&sums)[kSums]) {
#pragma unroll
  for (int s = 0; s < kSums; ++s) sums[s] = LiftedBlock<kTimes>{};
}

// Moves each sum to the place before it, and the first to the end. So all of them pass through the first place, where
// one piece of code serves them all.
template <int kSums, int kTimes>
__device__ inline void turn(LiftedBlock<kTimes> (&sums)[kSums]) {
  const LiftedBlock<kTimes> first = sums[0];
#pragma unroll
  for (int next = 0; next + 1 < kSums; ++next) sums[next] = sums[next + 1];
  sums[kSums - 1] = first;
}

}  // namespace gcp_kernels
