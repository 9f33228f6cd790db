// Octets, eight neighbouring elements of a row of a tensor, in float32: several are loaded before the first is used,
// since a load takes as long as hundreds of instructions.
//
// Where the elements of a row are neighbours in memory they are loaded in aligned pairs of words. The row itself may
// begin anywhere: an octet of halves then lies within three pairs, and is shifted out of them. Pairs may reach beyond
// the row, but not beyond its sample: where they would, at both ends of some samples, and where elements are not
// neighbours, they are loaded one by one.
#pragma once

#include "device/arguments.h"
#include "device/elements.cuh"

namespace gcp_kernels {

constexpr int kOctet = 8;

struct Octet {
  float value[kOctet];
};

// What an octet is made of: its elements one by one, the words of float32, or the six words around eight halves.
struct OctetWords {
  std::uint32_t word[kOctet];
};

// One channel of a sample. What all rows have in common is read from the kernel's arguments each time: registers are
// dear.
class Row {
 public:
  // `sample` is the address of its first element; none of the elements of a channel of the padding are in its row.
  __device__ Row(const Features& features, const char* sample, int channel) : features_(features) {
    const bool inside = channel < features.channels;
    first_ = inside ? sample + channel * features.channel_stride * size() : sample;
    const unsigned start = static_cast<unsigned>(reinterpret_cast<std::uintptr_t>(first_) % sizeof(WordPair));
    const unsigned end = start + static_cast<unsigned>(features.positions) * static_cast<unsigned>(size());
    // Every row but the first and the last one has a neighbour, of which the pairs at its ends may take something.
    const bool before = channel > 0 || start == 0;
    const bool behind = channel + 1 < features.channels || end % sizeof(WordPair) == 0;
    const bool neighbours = features.position_stride == 1 && features.channel_stride >= kOctet / 2;
    const bool in_pairs = neighbours && before && behind && !(floats() && start != 0);
    misaligned_ = !inside ? kOutside : in_pairs ? static_cast<int>(start) : kOneByOne;
    if (in_pairs) first_ -= start;
  }

  // The element at position 0; zero of a channel of the padding.
  __device__ float first() const {
    if (misaligned_ == kOutside) return 0.0f;
    return load_element(features_.element, first_ + max(misaligned_, 0), 0);
  }

  // How many elements of the octet at `position` are in the row.
  __device__ int there(int position) const {
    const int count = misaligned_ == kOutside ? 0 : recomputed(features_.positions) - position;
    return max(min(count, kOctet), 0);
  }

  // Begins to load so many octets, `step` positions apart; what is not in the row is zero.
  template <int kOctets>
  __device__ void load(OctetWords (&octets)[kOctets], int position, int step) const {
#pragma unroll
    for (int n = 0; n < kOctets; ++n) octets[n] = OctetWords{};
    if (in_pairs()) {
#pragma unroll
      for (int n = 0; n < kOctets; ++n) {
        const int at = position + n * step, in_row = there(at);
        const int bytes = in_row == 0 ? 0 : floats() ? in_row * 4 : in_row * 2 + misaligned_;
        const auto* pairs = reinterpret_cast<const WordPair*>(first_ + size() * at);
#pragma unroll
        for (int p = 0; p < kOctet / 2; ++p) {
          if (8 * p >= bytes) continue;
          const WordPair pair = pairs[p];
          octets[n].word[2 * p] = pair.word[0];
          octets[n].word[2 * p + 1] = pair.word[1];
        }
      }
      return;
    }
    const std::int64_t stride = features_.position_stride * size();
    const char* first = first_ + position * stride;
#pragma unroll
    for (int n = 0; n < kOctets; ++n) {
      const int in_row = there(position + n * step);
      const char* at = first;
#pragma unroll
      for (int e = 0; e < kOctet; ++e) {
        if (e < in_row && floats()) octets[n].word[e] = *reinterpret_cast<const std::uint32_t*>(at);
        if (e < in_row && !floats()) octets[n].word[e] = *reinterpret_cast<const std::uint16_t*>(at);
        at += stride;
      }
      first += step * stride;
    }
  }

  // What has been loaded. Elements beyond the row are any numbers.
  __device__ Octet octet(OctetWords octet) const {
    Octet result;
    std::uint32_t* words = octet.word;
    if (floats()) {
#pragma unroll
      for (int e = 0; e < kOctet; ++e) result.value[e] = as_float(words[e]);
      return result;
    }
    if (in_pairs()) {
      if (misaligned_ & 4) {
#pragma unroll
        for (int w = 0; w < 5; ++w) words[w] = words[w + 1];
      }
      const int bits = misaligned_ % 4 * 8;
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        words[w] = static_cast<std::uint32_t>((std::uint64_t{words[w + 1]} << 32 | words[w]) >> bits);
      }
    } else {
#pragma unroll
      for (int w = 0; w < 4; ++w) words[w] = words[2 * w] | words[2 * w + 1] << 16;
    }
    if (features_.element == Element::kBFloat16) {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        result.value[2 * w] = as_float(words[w] << 16);
        result.value[2 * w + 1] = as_float(words[w] & 0xffff0000u);
      }
    } else {
#pragma unroll
      for (int w = 0; w < 4; ++w) {
        result.value[2 * w] = first_half(words[w]);
        result.value[2 * w + 1] = second_half(words[w]);
      }
    }
    return result;
  }

 private:
  static constexpr int kOneByOne = -1, kOutside = -2;

  __device__ bool floats() const { return features_.element == Element::kFloat32; }
  __device__ std::int64_t size() const { return recomputed(size_of(features_.element)); }
  __device__ bool in_pairs() const { return misaligned_ >= 0; }

  const Features& features_;
  const char* first_;  // the first pair, or the first element
  int misaligned_;     // bytes of the first pair before the row, or one of the above
};

}  // namespace gcp_kernels
