// Elements of tensors in float32, whatever their type: float16, bfloat16 or float32, at any offset.
#pragma once

#include <cstdint>

#include <cuda_bf16.h>
#include <cuda_fp16.h>

#include "element.h"

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
template <typename T>
struct alignas(8) Eight {
  T element[8 / sizeof(T)];
};

// `count` elements, at most eight, `stride` apart; the rest is zero.
template <typename T>
__device__ inline Octet load_octet(const T* first, std::int64_t stride, int count) {
  constexpr int kTogether = 8 / sizeof(T);
  Octet octet{};
  if (stride == 1 && count >= kOctet && reinterpret_cast<std::uintptr_t>(first) % 8 == 0) {
#pragma unroll
    for (int group = 0; group < kOctet / kTogether; ++group) {
      const Eight<T> eight = reinterpret_cast<const Eight<T>*>(first)[group];
#pragma unroll
      for (int e = 0; e < kTogether; ++e) octet.value[group * kTogether + e] = to_float(eight.element[e]);
    }
    return octet;
  }
#pragma unroll
  for (int e = 0; e < kOctet; ++e) {
    if (e < count) octet.value[e] = to_float(first[e * stride]);
  }
  return octet;
}

}  // namespace gcp_kernels
