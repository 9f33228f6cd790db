// The gradient of one sample's symmetric result in shared memory, for who needs it block by block.
//
// A lane's share of a block lies in eight rows of the tensor, a few bytes in each. So all threads copy it as it lies
// there, neighbours by neighbours, and take their shares from the copy.
#pragma once

#include "device/direction.cuh"

namespace gcp_kernels {

// G + G^T in float32, of which shared memory holds the upper triangle, row by row, and of the diagonal the half.
struct StagedGradient {
  SharedAddress first;
  int channels;

  __device__ SharedAddress at(int index) const { return first + index * 4; }

  __device__ float twice_diagonal(int channel) const {
    return 2.0f * as_float(load_shared(at(packed_index(channel, channel, channels))));
  }

  // A lane's share of a block above the diagonal, or on it; zero beyond the matrix.
  __device__ LiftedBlock<0> twice(int i, int j) const {
    LiftedBlock<0> share;
    if (is_inside(i, j, channels)) {
      const int row = element_row(i, 0);
      const SharedAddress upper = at(packed_index(row, element_column(j, 0), channels));
      const SharedAddress lower = upper + 4 * packed_index(8, 0, channels - row);
      for_each_element(
          [&](int e, int r, int c) { share.value[e] = as_float(load_shared((r == 0 ? upper : lower) + 4 * c)); });
      return share;
    }
#pragma unroll
    for (int e = 0; e < 8; ++e) {
      const int row = element_row(i, e), column = element_column(j, e);
      const int low = min(row, column), high = max(row, column);
      const float value = high < channels ? as_float(load_shared(at(packed_index(low, high, channels)))) : 0.0f;
      share.value[e] = row == column ? 2.0f * value : value;
    }
    return share;
  }
};

// Elements that a thread loads before it waits for the first of them.
constexpr int kStagedAtOnce = 12, kStagedOfRowAtOnce = 4;

// Calls load(data) with a pointer to elements of its size: one choice for all loads. With one for each, as in
// load_element(), each would wait for the one before.
template <typename Load>
__device__ inline void with_bits(Element element, const char* data, Load load) {
  if (element == Element::kFloat32) {
    load(reinterpret_cast<const std::uint32_t*>(data));
  } else {
    load(reinterpret_cast<const std::uint16_t*>(data));
  }
}

// Copies the gradient. What was in its place must have been read; there is a barrier at the end. Gives the largest
// magnitude that this thread has copied.
__device__ inline float stage_gradient(const SymmetricGradient& gradient, std::int64_t sample,
                                       const StagedGradient& staged) {
  const char* const start = start_of(gradient, sample);
  const int channels = gradient.channels, threads = static_cast<int>(blockDim.x);
  const auto value_of = [&](std::uint32_t bits) {
    return gradient.element == Element::kFloat32 ? as_float(bits) : half_value(gradient.element, bits);
  };
  float largest = 0.0f;
  const auto put = [&](int index, float value) {
    largest = larger(largest, fabsf(value));
    store_shared(staged.at(index), as_word(value));
  };
  if (gradient.triangle) {
    const int elements = triangle_number(channels);
#pragma unroll 1
    for (int first = threadIdx.x; first < elements; first += kStagedAtOnce * threads) {
      std::uint32_t bits[kStagedAtOnce];
      with_bits(gradient.element, start, [&](const auto* data) {
        const auto* from = data + first * gradient.row_stride;
#pragma unroll
        for (int n = 0; n < kStagedAtOnce; ++n) {
          bits[n] = first + n * threads < elements ? *from : 0;
          from += threads * gradient.row_stride;
        }
      });
#pragma unroll
      for (int n = 0; n < kStagedAtOnce; ++n) {
        if (first + n * threads < elements) put(first + n * threads, value_of(bits[n]));
      }
    }
  } else {
#pragma unroll 1
    for (int row = warp_of_thread(); row < channels; row += threads / kWarpSize) {
#pragma unroll 1
      for (int first = row + lane_of_thread(); first < channels; first += kStagedOfRowAtOnce * kWarpSize) {
        std::uint32_t above[kStagedOfRowAtOnce], below[kStagedOfRowAtOnce];
        with_bits(gradient.element, start, [&](const auto* data) {
          const auto* from = data + row * gradient.row_stride + first * gradient.column_stride;
          const auto* mirrored = data + first * gradient.row_stride + row * gradient.column_stride;
#pragma unroll
          for (int n = 0; n < kStagedOfRowAtOnce; ++n) {
            const bool inside = first + n * kWarpSize < channels;
            above[n] = inside ? *from : 0;
            below[n] = inside ? *mirrored : 0;
            from += kWarpSize * gradient.column_stride;
            mirrored += kWarpSize * gradient.row_stride;
          }
        });
#pragma unroll
        for (int n = 0; n < kStagedOfRowAtOnce; ++n) {
          const int column = first + n * kWarpSize;
          const float value = value_of(above[n]) + (row == column ? 0.0f : value_of(below[n]));
          if (column < channels) put(packed_index(row, column, channels), value);
        }
      }
    }
  }
  block_barrier();  // the gradient is staged
  return largest;
}

// G + G^T of one sample after the other. Where all matrices are on chip it is staged in planes that are free just then;
// else there is no room, and each block is loaded from the tensor.
template <Form kForm>
struct GradientBlocks {
  const Workspace& workspace;
  const SymmetricGradient& gradient;

  __device__ StagedGradient staged(Floats<0> place) const {
    return {workspace.in_shared(place.first), gradient.channels};
  }

  // Leaves it in `place`, for block(), and gives its largest magnitude in the sample.
  __device__ float load(std::int64_t sample, Floats<0> place) const {
    if constexpr (kStreams<kForm>) return load_gradient<kForm>(workspace, gradient, sample, place);
    float largest = stage_gradient(gradient, sample, staged(place));
    for (int channel = threadIdx.x; channel < gradient.channels; channel += blockDim.x) {
      largest = larger(largest, fabsf(staged(place).twice_diagonal(channel)));
    }
    return block_max(workspace, largest);
  }
  __device__ LiftedBlock<0> block(Floats<0> place, int i, int j) const {
    if constexpr (kStreams<kForm>) return load_floats<kForm>(workspace, place, packed_block(i, j));
    return staged(place).twice(i, j);
  }

  // Stages it once more; where matrices are streamed, block_again() loads from the tensor instead.
  __device__ void load_again(std::int64_t sample, Floats<0> place) const {
    if constexpr (!kStreams<kForm>) stage_gradient(gradient, sample, staged(place));
  }
  __device__ LiftedBlock<0> block_again(std::int64_t sample, Floats<0> place, int i, int j) const {
    if constexpr (kStreams<kForm>) return load_twice_symmetric(gradient, sample, i, j);
    return staged(place).twice(i, j);
  }
};

}  // namespace gcp_kernels
