// Elements of tensors in float32, whatever their type: float16, bfloat16 or float32, at any offset.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device/element.h"
#include "device/primitives.cuh"

namespace gcp_kernels {

__device__ inline float to_float(float value) { return value; }
__device__ inline float to_float(__half value) { return __half2float(value); }
__device__ inline float to_float(__nv_bfloat16 value) { return __bfloat162float(value); }

__device__ inline void assign(float& to, float value) { to = value; }
__device__ inline void assign(__half& to, float value) { to = __float2half_rn(value); }
__device__ inline void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

// Calls `run` with a pointer of the element's type; the types are those the kernels take.
template <typename Run>
__device__ inline void with_element_pointer(Element element, const void* data, Run run) {
  if (element == Element::kFloat16) {
    run(static_cast<const __half*>(data));
  } else if (element == Element::kBFloat16) {
    run(static_cast<const __nv_bfloat16*>(data));
  } else {
    run(static_cast<const float*>(data));
  }
}

template <typename Run>
__device__ inline void with_element_pointer(Element element, void* data, Run run) {
  if (element == Element::kFloat16) {
    run(static_cast<__half*>(data));
  } else if (element == Element::kBFloat16) {
    run(static_cast<__nv_bfloat16*>(data));
  } else {
    run(static_cast<float*>(data));
  }
}

__device__ inline float load_element(Element element, const void* data, std::int64_t offset) {
  float value;
  with_element_pointer(element, data, [&](const auto* typed) { value = to_float(typed[offset]); });
  return value;
}

constexpr int kOctet = 8;

struct Octet {
  float value[kOctet];
};

// Eight bytes of neighbouring elements, loaded at once.
struct alignas(8) WordPair {
  std::uint32_t word[2];
};

// Whether neighbouring elements can be loaded in such pairs of words.
template <typename T>
__device__ inline bool is_regular(const T* first, std::int64_t stride) {
  return stride == 1 && reinterpret_cast<std::uintptr_t>(first) % sizeof(WordPair) == 0;
}

// Elements by the words that hold them: the first of two in the low bits.
__device__ inline float element_of_words(const float*, const std::uint32_t* words, int e) { return as_float(words[e]); }
__device__ inline float element_of_words(const __half*, const std::uint32_t* words, int e) {
  return e % 2 ? second_half(words[e / 2]) : first_half(words[e / 2]);
}
__device__ inline float element_of_words(const __nv_bfloat16*, const std::uint32_t* words, int e) {
  return as_float(e % 2 ? words[e / 2] & 0xffff0000u : words[e / 2] << 16);
}

// `count` elements, at most eight, `stride` apart; the rest is zero.
template <typename T>
__device__ inline Octet load_octet(const T* first, std::int64_t stride, int count) {
  Octet octet{};
#pragma unroll
  for (int e = 0; e < kOctet; ++e) {
    if (e < count) octet.value[e] = to_float(first[e * stride]);
  }
  return octet;
}

// Visits the octets at `position`, `position` + `step` and so on below `end` of a row of `count` elements, `stride`
// apart: visit(octet, its position, how many of its elements are in the row), the others being zero. Of a regular row
// several octets are loaded before the first is visited, since a load takes as long as hundreds of instructions.
template <typename T, typename Visit>
__device__ inline void for_each_octet(const T* row, std::int64_t stride, int count, int position, int step, int end,
                                      Visit visit) {
  constexpr int kPairs = kOctet * sizeof(T) / sizeof(WordPair);
  constexpr int kAtOnce = 4;
  const int whole = is_regular(row, stride) ? min(end, count) / kOctet * kOctet : 0;
#pragma unroll 1
  for (int first = position; first < whole; first += kAtOnce * step) {
    std::uint32_t words[kAtOnce][2 * kPairs];
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      // Beyond the end the first octet once more.
      const int at = first + n * step < whole ? first + n * step : first;
#pragma unroll
      for (int p = 0; p < kPairs; ++p) {
        const WordPair pair = reinterpret_cast<const WordPair*>(row + at)[p];
        words[n][2 * p] = pair.word[0];
        words[n][2 * p + 1] = pair.word[1];
      }
    }
#pragma unroll
    for (int n = 0; n < kAtOnce; ++n) {
      if (first + n * step >= whole) continue;
      Octet octet;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) octet.value[e] = element_of_words(row, words[n], e);
      visit(octet, first + n * step, kOctet);
    }
  }
  if (position < whole) position += (whole - position + step - 1) / step * step;
#pragma unroll 1
  for (; position < end; position += step) {
    const int there = max(min(count - position, kOctet), 0);
    visit(load_octet(row + position * stride, stride, there), position, there);
  }
}

}  // namespace gcp_kernels
