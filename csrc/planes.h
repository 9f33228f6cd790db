// Matrices and planes of a workspace by name, and which of them share memory: plain arithmetic for host and device.
#pragma once

#include "policy.h"

namespace gcp_kernels {

// A matrix of a pass, by its place among them: the first are kept on chip. Each pass names its own.
enum class Matrix : int {};

// A plane of halves, numbered through: matrix after matrix, of each the high plane and then the low one.
enum class Plane : int {};

GCP_HOST_DEVICE constexpr Plane plane_of(Matrix matrix, int planes) {
  return static_cast<Plane>(static_cast<int>(matrix) * planes);
}

// The plane behind it, or so many further.
GCP_HOST_DEVICE constexpr Plane next(Plane plane, int by = 1) {
  return static_cast<Plane>(static_cast<int>(plane) + by);
}

// A matrix in float32, lifted kTimes: it takes a plane and the next.
template <int kTimes>
struct Floats {
  Plane first;
};

// A matrix split into a high and a low plane, whatever the number of planes of the pass, lifted once.
struct Split {
  Plane high;
};

// Planes in a row, to say at compile time what shares memory with what.
struct PlaneRange {
  int first, end;

  constexpr bool overlaps(PlaneRange other) const { return first < other.end && other.first < end; }
  constexpr bool within(int planes) const { return first >= 0 && end <= planes; }
};

constexpr PlaneRange range_of(Matrix matrix, int planes) {
  const int first = static_cast<int>(matrix) * planes;
  return {first, first + planes};
}
template <int kTimes>
constexpr PlaneRange range_of(Floats<kTimes> floats) {
  return {static_cast<int>(floats.first), static_cast<int>(floats.first) + 2};
}
constexpr PlaneRange range_of(Split split) { return {static_cast<int>(split.high), static_cast<int>(split.high) + 2}; }

}  // namespace gcp_kernels
