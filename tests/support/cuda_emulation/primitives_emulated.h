// The primitives of csrc/device/primitives.cuh on a CPU, with what they require checked: of memory in
// watched_memory.h; lanes that are not all at the same primitive of a warp are a fault; tensor cores round as in
// tensor_cores.h.
#pragma once

#include <cstring>
#include <vector>

#include "cuda_fp16.h"
#include "device/primitives.cuh"
#include "emulation.h"
#include "tensor_cores.h"
#include "watched_memory.h"

namespace cuda_emulation {

// What the lanes of the running warp have brought to a primitive.
struct Meeting {
  unsigned arrived = 0;
  std::uint32_t address[kLanes];
  float value[kLanes];
  void* result[kLanes];
  const std::uint32_t* left[kLanes];
  const std::uint32_t* right[kLanes];
};
inline Meeting meeting;

inline unsigned lane() { return running->number % kLanes; }

// Suspends the lane until all have come to the primitive at this line; the last one carries it out.
template <typename Perform>
void meet(int line, Perform perform) {
  const unsigned first = running->number - lane();
  if (threads->size() < first + kLanes) fail(kDivergentWarp, "a warp without 32 lanes");
  if (++meeting.arrived < kLanes) return suspend(State::kAtPrimitive, line);
  meeting.arrived = 0;
  for (unsigned other = first; other < first + kLanes; ++other) {
    Thread& thread = (*threads)[other];
    if (&thread == running) continue;
    if (thread.state != State::kAtPrimitive || thread.line != line)
      fail(kDivergentWarp, "lanes at different primitives");
  }
  perform();
  for (unsigned other = first; other < first + kLanes; ++other) (*threads)[other].state = State::kReady;
}

inline const std::vector<float>& half_values() {
  static const std::vector<float> values = [] {
    std::vector<float> all(65536);
    for (unsigned bits = 0; bits < all.size(); ++bits) all[bits] = __half2float({static_cast<std::uint16_t>(bits)});
    return all;
  }();
  return values;
}

}  // namespace cuda_emulation

namespace gcp_kernels {

inline SharedAddress shared_memory() { return cuda_emulation::kSharedStart; }

inline std::uint32_t load_shared(SharedAddress address) {
  return cuda_emulation::shared.read(address, cuda_emulation::running->number);
}

inline void store_shared(SharedAddress address, std::uint32_t word) {
  cuda_emulation::shared.write(address, word, cuda_emulation::running->number);
}

inline void store_shared_half(SharedAddress address, std::uint16_t half) {
  cuda_emulation::shared.write_half(address, half, cuda_emulation::running->number);
}

inline void check_row(SharedAddress address) {
  if (address % 16 != 0) cuda_emulation::fail(cuda_emulation::kOutOfBounds, "a row that is not aligned");
}

inline void store_shared(SharedAddress address, const TileRow& row) {
  check_row(address);
  for (int w = 0; w < 4; ++w) store_shared(address + 4 * w, row.word[w]);
}

inline TileRow load_shared_row(SharedAddress address) {
  check_row(address);
  TileRow row;
  for (int w = 0; w < 4; ++w) row.word[w] = load_shared(address + 4 * w);
  return row;
}

// Lane l gets elements 2(l % 4) and the next of row l / 4 of each tile, or of its transpose.
inline Fragment load_tiles(SharedAddress row, bool transposed, int line) {
  using namespace cuda_emulation;
  Fragment mine;
  meeting.address[lane()] = row;
  meeting.result[lane()] = &mine;
  meet(line, [transposed] {
    ++counters->block_loads;
    for (int tile = 0; tile < 4; ++tile) {
      std::uint16_t elements[8][8];
      for (int r = 0; r < 8; ++r) {
        const SharedAddress address = meeting.address[8 * tile + r];
        check_row(address);
        for (int w = 0; w < 4; ++w) {
          // Of a tile as it is, each word is one lane's, and that lane may write it next; transposed, two lanes'
          // halves.
          const int reader = transposed ? kSeveral : static_cast<int>(running->number - lane() + 4 * r + w);
          const std::uint32_t word = shared.read(address + 4 * w, reader);
          elements[r][2 * w] = word & 0xffff;
          elements[r][2 * w + 1] = word >> 16;
        }
      }
      for (unsigned l = 0; l < kLanes; ++l) {
        const int r = l / 4, c = l % 4 * 2;
        const std::uint32_t first = transposed ? elements[c][r] : elements[r][c];
        const std::uint32_t second = transposed ? elements[c + 1][r] : elements[r][c + 1];
        static_cast<Fragment*>(meeting.result[l])->word[tile] = first | second << 16;
      }
    }
  });
  return mine;
}

inline Fragment load_matrix(SharedAddress row, int line = __builtin_LINE()) { return load_tiles(row, false, line); }

inline Fragment load_matrix_transposed(SharedAddress row, int line = __builtin_LINE()) {
  return load_tiles(row, true, line);
}

inline void store_matrix(SharedAddress row, const Fragment& block, int line = __builtin_LINE()) {
  using namespace cuda_emulation;
  meeting.address[lane()] = row;
  meeting.left[lane()] = block.word;
  meet(line, [] {
    for (unsigned l = 0; l < kLanes; ++l) {
      check_row(meeting.address[l]);
      for (int w = 0; w < 4; ++w) {
        // Row l % 8 of tile l / 8 comes of four lanes, a word of each; each of them wrote its own.
        const unsigned owner = l % 8 * 4 + w;
        shared.write(meeting.address[l] + 4 * w, meeting.left[owner][l / 8], running->number - lane() + owner);
      }
    }
  });
}

inline void multiply_add(BlockSum& sum, const Fragment& left, const Fragment& right, int line = __builtin_LINE()) {
  using namespace cuda_emulation;
  meeting.result[lane()] = &sum;
  meeting.left[lane()] = left.word;
  meeting.right[lane()] = right.word;
  meet(line, [] {
    ++counters->products;
    const std::vector<float>& halves = half_values();
    constexpr int exchanged[] = {0, 2, 1, 3};  // the right operand's tiles
    Block a, b, c;                             // the right operand comes by the rows of its transpose, b
    for (unsigned l = 0; l < kLanes; ++l) {
      for (int w = 0; w < 4; ++w) {
        const int row = w % 2 * 8 + l / 4, column = w / 2 * 8 + l % 4 * 2;
        for (int e = 0; e < 2; ++e) {
          a[row][column + e] = halves[meeting.left[l][w] >> 16 * e & 0xffff];
          b[column + e][row] = halves[meeting.right[l][exchanged[w]] >> 16 * e & 0xffff];
          c[row][column + e] = static_cast<BlockSum*>(meeting.result[l])->value[2 * w + e];
        }
      }
    }
    multiply_blocks(a, b, c);
    for (unsigned l = 0; l < kLanes; ++l) {
      for (int w = 0; w < 4; ++w) {
        const int row = w % 2 * 8 + l / 4, column = w / 2 * 8 + l % 4 * 2;
        for (int e = 0; e < 2; ++e) {
          static_cast<BlockSum*>(meeting.result[l])->value[2 * w + e] = c[row][column + e];
        }
      }
    }
  });
}

inline std::uint32_t load_slab(const char* address) {
  return cuda_emulation::slabs.read(address, cuda_emulation::running->number);
}

inline void store_slab(char* address, std::uint32_t word) {
  cuda_emulation::slabs.write(address, word, cuda_emulation::running->number);
}

inline void store_slab(char* address, const TileRow& row) {
  if (reinterpret_cast<std::uintptr_t>(address) % 16 != 0) {
    cuda_emulation::fail(cuda_emulation::kOutOfBounds, "16 bytes at an address that is not aligned");
  }
  for (int w = 0; w < 4; ++w) store_slab(address + 4 * w, row.word[w]);
}

inline void copy_async(SharedAddress to, const void* from) {
  check_row(to);
  if (reinterpret_cast<std::uintptr_t>(from) % 16 != 0) {
    cuda_emulation::fail(cuda_emulation::kOutOfBounds, "a copy from an address that is not aligned");
  }
  cuda_emulation::shared.copy(to, static_cast<const char*>(from), cuda_emulation::running->number);
}

inline void commit_copies() { cuda_emulation::shared.commit(cuda_emulation::running->number); }

template <int kPending>
void wait_for_copies() {
  cuda_emulation::shared.wait(kPending, cuda_emulation::running->number);
}

inline void warp_barrier(int line = __builtin_LINE()) {
  cuda_emulation::meet(line, [] { cuda_emulation::pass_warp_barrier(); });
}

inline void block_barrier(int line = __builtin_LINE()) { cuda_emulation::wait_at_barrier(line); }

inline int of_all_lanes(int value, int line = __builtin_LINE()) {
  using namespace cuda_emulation;
  meeting.address[lane()] = value;
  meet(line, [] {
    for (unsigned l = 0; l < kLanes; ++l) {
      if (meeting.address[l] != meeting.address[0]) fail(kDivergentWarp, "lanes with different numbers");
    }
  });
  return value;
}

inline float shuffle_xor(float value, int mask, int line = __builtin_LINE()) {
  using namespace cuda_emulation;
  float mine;
  meeting.value[lane()] = value;
  meeting.result[lane()] = &mine;
  meet(line, [mask] {
    for (unsigned l = 0; l < kLanes; ++l) *static_cast<float*>(meeting.result[l]) = meeting.value[l ^ mask];
  });
  return mine;
}

inline int lane_of_thread() { return cuda_emulation::lane(); }

inline int warp_of_thread() { return cuda_emulation::running->number / cuda_emulation::kLanes; }

inline int recomputed(int value) { return value; }

inline std::uint32_t pack_halves(float first, float second) {
  return __float2half_rn(first).bits | std::uint32_t{__float2half_rn(second).bits} << 16;
}

inline float first_half(std::uint32_t word) { return cuda_emulation::half_values()[word & 0xffff]; }
inline float second_half(std::uint32_t word) { return cuda_emulation::half_values()[word >> 16]; }

inline float as_float(std::uint32_t word) {
  float value;
  std::memcpy(&value, &word, sizeof(value));
  return value;
}

inline std::uint32_t as_word(float value) {
  std::uint32_t word;
  std::memcpy(&word, &value, sizeof(word));
  return word;
}

}  // namespace gcp_kernels
