// How tensor cores round, for products of float16 summed in float32.
//
// An instruction is carried out in steps of a few products. In each, all addends, the products and the sum so far, are
// aligned to the largest exponent among them, that of a product being the sum of its factors', and cut off some guard
// bits below the last bit of a float32 of that exponent. They are then added exactly, and the result is cut off to
// float32. So it was found on V100 and A100 by M. Fasi, N. J. Higham, M. Mikaitis, S. Pranesh, "Numerical behavior of
// NVIDIA tensor cores", PeerJ Computer Science 7:e330, 2021, and, bit for bit, up to H100 and B200 by P. Xie, Y. Wang,
// F. Yang, M. Yang, "MMA-Sim", arXiv 2511.10909, and F. A. Khattak, M. Mikaitis, "Accurate Models of NVIDIA Tensor
// Cores", arXiv 2512.07004, both 2025.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>

// Checks of indices and of overflow, with which all else is compiled, would take most of the time here.
#define NO_TRAPS __attribute__((no_sanitize("undefined")))

namespace cuda_emulation {

constexpr int kSide = 16;
using Block = float[kSide][kSide];

struct TensorCore {
  int depth = 8;       // products of a step
  int guard_bits = 1;  // at most 2, so that eight of the addends below fit in 32 bits
};
inline TensorCore tensor_core;

// Four columns at once, in what GCC and Clang make vector instructions of: here most of an emulation's time is spent.
constexpr int kLanesAtOnce = 4;
using Floats = float __attribute__((vector_size(16)));
using Integers = std::int32_t __attribute__((vector_size(16)));
using Doubles = double __attribute__((vector_size(32)));
using LongIntegers = std::int64_t __attribute__((vector_size(32)));

inline Floats larger(Floats a, Floats b) { return a > b ? a : b; }

// The power of two at or below the magnitude of finite numbers.
inline Floats power_of(Floats values) {
  return reinterpret_cast<Floats>(reinterpret_cast<Integers>(values) & 0x7f800000);
}

// The same of halves, of which a subnormal one has the exponent of the smallest normal one; 0 of 0.
inline Floats power_of_halves(Floats values) {
  const Floats smallest = Floats{} + 0x1p-14f;
  return values == Floats{} ? Floats{} : larger(power_of(values), smallest);
}

// c += a b for four columns of b and c, of which columns of blocks are kSide apart. Products of two halves are exact in
// float32, and so is all that follows but what is cut off.
NO_TRAPS inline void multiply_columns(const Floats (&a)[kSide], const Floats (&a_powers)[kSide],
                                      const Floats (&b)[kSide], const Floats (&b_powers)[kSide], Floats& c) {
  const float last_bit = std::ldexp(1.0f, 23 + tensor_core.guard_bits);
  for (int first = 0; first < kSide; first += tensor_core.depth) {
    const int end = first + tensor_core.depth;
    // Sums of products of halves are multiples of 2^-73: the bound is there for the division.
    Floats largest = larger(power_of(c), Floats{} + 0x1p-100f);
    for (int k = first; k < end; ++k) largest = larger(largest, a_powers[k] * b_powers[k]);
    const Floats unit = largest / last_bit, scale = 1.0f / unit;
    Doubles total = __builtin_convertvector(__builtin_convertvector(c * scale, Integers), Doubles);
    for (int begin = first; begin < end; begin += 8) {
      Integers addends = {};
      for (int k = begin; k < begin + 8 && k < end; ++k) {
        addends += __builtin_convertvector(a[k] * b[k] * scale, Integers);  // towards zero
      }
      total += __builtin_convertvector(addends, Doubles);
    }
    const Doubles exact = total * __builtin_convertvector(unit, Doubles);
    // The bits of a double beyond those of a float32 are cleared: towards zero too.
    const LongIntegers kept = reinterpret_cast<LongIntegers>(exact) & ~LongIntegers{} << 29;
    c = __builtin_convertvector(reinterpret_cast<Doubles>(kept), Floats);
  }
}

NO_TRAPS inline void multiply_finite(const Block& a, const Block& b, Block& c) {
  Floats left[kSide][kSide], left_powers[kSide][kSide];  // each element of a in all lanes
  for (int row = 0; row < kSide; ++row) {
    for (int k = 0; k < kSide; ++k) {
      left[row][k] = Floats{} + a[row][k];
      left_powers[row][k] = power_of_halves(left[row][k]);
    }
  }
  for (int column = 0; column < kSide; column += kLanesAtOnce) {
    Floats right[kSide], right_powers[kSide];
    for (int k = 0; k < kSide; ++k) {
      std::memcpy(&right[k], &b[k][column], sizeof(Floats));
      right_powers[k] = power_of_halves(right[k]);
    }
    for (int row = 0; row < kSide; ++row) {
      Floats sums;
      std::memcpy(&sums, &c[row][column], sizeof(Floats));
      multiply_columns(left[row], left_powers[row], right, right_powers, sums);
      std::memcpy(&c[row][column], &sums, sizeof(Floats));
    }
  }
}

// Where a value is infinite or NaN: what comes of it is one too.
inline void multiply_infinite(const Block& a, const Block& b, Block& c) {
  for (int row = 0; row < kSide; ++row) {
    for (int column = 0; column < kSide; ++column) {
      for (int k = 0; k < kSide; ++k) c[row][column] += a[row][k] * b[k][column];
    }
  }
}

NO_TRAPS inline bool all_finite(const Block& block) {
  float zero = 0.0f;
  for (const auto& row : block) {
    for (const float value : row) zero += value * 0.0f;
  }
  return zero == 0.0f;
}

// c += a b, of halves and float32.
inline void multiply_blocks(const Block& a, const Block& b, Block& c) {
  const bool finite = all_finite(a) && all_finite(b) && all_finite(c);
  finite ? multiply_finite(a, b, c) : multiply_infinite(a, b, c);
}

}  // namespace cuda_emulation
