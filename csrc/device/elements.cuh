// Elements of tensors in float32, whatever their type: float16, bfloat16 or float32, at any offset.
#pragma once

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include <cstdint>

#include "device/element.h"
#include "device/primitives.cuh"

namespace gcp_kernels {

__device__ inline void assign(float& to, float value) { to = value; }
__device__ inline void assign(__half& to, float value) { to = __float2half_rn(value); }
__device__ inline void assign(__nv_bfloat16& to, float value) { to = __float2bfloat16_rn(value); }

// Calls `run` with a pointer of the element's type; the types are those the kernels take.
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

// Two numbers as halves in a word, and what rounding takes away.
struct SplitPair {
  std::uint32_t high, low;
};

__device__ inline SplitPair split_pair(float first, float second) {
  const std::uint32_t high = pack_halves(first, second);
  return {high, pack_halves(first - first_half(high), second - second_half(high))};
}

// The bits of a bfloat16, rounded to nearest.
__device__ inline std::uint32_t pack_brain_float(float value) {
  const __nv_bfloat16 rounded = __float2bfloat16_rn(value);
  return *reinterpret_cast<const std::uint16_t*>(&rounded);
}

// An element of two bytes.
__device__ inline float half_value(Element element, std::uint32_t bits) {
  return element == Element::kBFloat16 ? as_float(bits << 16) : first_half(bits);
}

__device__ inline std::uint16_t half_bits(Element element, float value) {
  return static_cast<std::uint16_t>(element == Element::kBFloat16 ? pack_brain_float(value) : pack_halves(value, 0.0f));
}

// Two elements of two bytes in a word, the first in its low bits.
__device__ inline std::uint32_t pack_pair(Element element, float first, float second) {
  if (element == Element::kBFloat16) return pack_brain_float(first) | pack_brain_float(second) << 16;
  return pack_halves(first, second);
}

// One element, of whichever type it is: a choice of instructions, and not of code for each type.
__device__ inline float load_element(Element element, const void* data, std::int64_t offset) {
  if (element == Element::kFloat32) return static_cast<const float*>(data)[offset];
  return half_value(element, static_cast<const std::uint16_t*>(data)[offset]);
}

__device__ inline void store_element(Element element, void* data, std::int64_t offset, float value) {
  if (element == Element::kFloat32) {
    static_cast<float*>(data)[offset] = value;
  } else {
    static_cast<std::uint16_t*>(data)[offset] = half_bits(element, value);
  }
}

// Bytes of an element; of those that features may have.
__device__ inline int size_of(Element element) { return element == Element::kFloat32 ? 4 : 2; }

// Eight bytes, loaded or stored at once.
struct alignas(8) WordPair {
  std::uint32_t word[2];
};

// Two neighbouring elements, of which the first is aligned to the size of both.
__device__ inline void store_element_pair(Element element, void* data, std::int64_t offset, float first, float second) {
  if (element == Element::kFloat32) {
    *reinterpret_cast<WordPair*>(static_cast<float*>(data) + offset) = {{as_word(first), as_word(second)}};
  } else {
    *reinterpret_cast<std::uint32_t*>(static_cast<std::uint16_t*>(data) + offset) = pack_pair(element, first, second);
  }
}

}  // namespace gcp_kernels
