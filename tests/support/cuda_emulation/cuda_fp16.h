// float16 under emulation: the type and the conversions that kernels use, rounding to nearest even.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>

struct __half {
  std::uint16_t bits;
};

inline float __half2float(__half value) {
  const int exponent = (value.bits >> 10) & 31;
  const int fraction = value.bits & 1023;
  float magnitude = std::ldexp(static_cast<float>(fraction), -24);  // subnormal
  if (exponent == 31) {
    magnitude = fraction ? std::numeric_limits<float>::quiet_NaN() : std::numeric_limits<float>::infinity();
  } else if (exponent > 0) {
    magnitude = std::ldexp(static_cast<float>(1024 + fraction), exponent - 25);
  }
  return value.bits & 0x8000 ? -magnitude : magnitude;
}

inline __half __float2half_rn(float value) {
  const unsigned sign = std::signbit(value) ? 0x8000 : 0;
  const float magnitude = std::fabs(value);
  unsigned bits = 0;
  if (std::isnan(value)) {
    bits = 0x7e00;
  } else if (magnitude >= 65520.0f) {  // halfway from the largest finite value to the next
    bits = 0x7c00;
  } else if (magnitude > 0.0f) {
    const int exponent = std::max(std::ilogb(magnitude), -14);
    const int significand = static_cast<int>(std::nearbyint(std::ldexp(magnitude, 10 - exponent)));
    bits = ((exponent + 15) << 10) + significand - 1024;  // a carry, and a subnormal, come out right
  }
  return {static_cast<std::uint16_t>(sign | bits)};
}
