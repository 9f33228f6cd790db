// Memory that the threads of a block share, watched: for each word, which threads read and wrote it since the last
// barrier. Two threads at one word, one of them writing, are a race, whatever the order in which they came; but not
// lanes of one warp with a barrier of that warp between them. In shared memory each half of a word is watched.
//
// Shared memory has exactly the size of the launch and starts full of NaN. A slab is global memory that belongs to one
// block, word by word. A copy from a slab to shared memory goes on in the background: what it copies arrives when it is
// waited for, and not before, and until then nobody may write what it reads.
#pragma once

#include <cstring>
#include <vector>

#include "emulation.h"

namespace cuda_emulation {

constexpr std::uint32_t kSharedStart = 1024;  // so that an address which is only an offset is out of bounds
constexpr std::uint32_t kPoison = 0xffffffffu;
constexpr int kNobody = -1;
constexpr int kSeveral = -2;  // lanes of a warp at once
constexpr int kMostWarps = 32;

inline long epoch = 0;                     // how many barriers have been passed
inline long warp_epochs[kMostWarps] = {};  // of each warp, how many of its own

inline int warp_of(unsigned thread) { return static_cast<int>(thread / kLanes); }
inline int running_warp() { return warp_of(running->number); }
inline void pass_warp_barrier() { ++warp_epochs[running_warp()]; }

// Reads of a word, or writes: those since the last barrier that a thread does not know of.
class Uses {
 public:
  void note(int thread) {
    if (in_ != epoch || is_known()) {
      by_ = thread;
      warp_ = running_warp();
    } else {
      if (by_ != thread) by_ = kSeveral;
      if (warp_ != running_warp()) warp_ = kSeveral;
    }
    in_ = epoch;
    at_ = warp_epochs[running_warp()];
  }
  bool race_with(int thread) const { return in_ == epoch && (by_ != thread || by_ == kSeveral) && !is_known(); }

 private:
  // Whether they were of lanes of the running warp alone, before its last barrier.
  bool is_known() const { return warp_ == running_warp() && at_ < warp_epochs[warp_]; }

  long in_ = -1, at_ = -1;  // epochs
  int by_ = kNobody, warp_ = kNobody;
};

class WordUse {
 public:
  void read(int thread, Fault race) {
    if (writes_.race_with(thread)) fail(race, "race: read of what another thread wrote");
    reads_.note(thread);
  }
  void write(int thread, Fault race) {
    if (writes_.race_with(thread)) fail(race, "race: write of what another thread wrote");
    if (reads_.race_with(thread)) fail(race, "race: write of what another thread read");
    writes_.note(thread);
  }

 private:
  Uses reads_, writes_;
};

class Slabs {
 public:
  void resize(char* start, std::size_t bytes) {
    start_ = start;
    words_.assign(bytes / 4, Word{});
  }

  std::uint32_t read(const char* address, int thread) {
    word_at(address).use.read(thread, kSlabRace);
    std::uint32_t word;
    std::memcpy(&word, address, sizeof(word));
    return word;
  }

  void write(char* address, std::uint32_t value, int thread) {
    Word& word = word_at(address);
    if (word.copies > 0) fail(kSlabRace, "race: write of what is being copied");
    word.use.write(thread, kSlabRace);
    std::memcpy(address, &value, sizeof(value));
  }

  void begin_copy(const char* address, int thread) {
    Word& word = word_at(address);
    word.use.read(thread, kSlabRace);
    ++word.copies;
  }
  void end_copy(const char* address, int thread) {
    Word& word = word_at(address);
    word.use.read(thread, kSlabRace);
    --word.copies;
  }

 private:
  struct Word {
    WordUse use;
    int copies = 0;  // under way
    int block = kNobody;
  };

  Word& word_at(const char* address) {
    const std::size_t offset = address - start_;
    if (address < start_ || offset % 4 != 0 || offset / 4 >= words_.size()) {
      fail(kOutOfBounds, "access outside of the slabs");
    }
    Word& word = words_[offset / 4];
    if (word.block != kNobody && word.block != static_cast<int>(blockIdx.x)) {
      fail(kSlabRace, "race: a word of another block's slab");
    }
    word.block = blockIdx.x;
    return word;
  }

  char* start_ = nullptr;
  std::vector<Word> words_;
};

inline Slabs slabs;

class SharedMemory {
 public:
  void resize(std::size_t bytes) {
    words_.assign(bytes / 4, kPoison);
    uses_.assign(bytes / 2, WordUse{});
    copies_.assign(threads->size(), {});
    pending_.assign(threads->size(), {});
  }

  std::uint32_t read(std::uint32_t address, int thread) {
    const std::size_t number = number_of(address);
    for (int half = 0; half < 2; ++half) uses_[2 * number + half].read(thread, kRace);
    return words_[number];
  }

  void write(std::uint32_t address, std::uint32_t word, int thread) {
    const std::size_t number = number_of(address);
    for (int half = 0; half < 2; ++half) uses_[2 * number + half].write(thread, kRace);
    words_[number] = word;
  }

  void write_half(std::uint32_t address, std::uint16_t value, int thread) {
    const std::uint32_t half = address / 2 % 2;
    const std::size_t number = number_of(address - 2 * half);
    uses_[2 * number + half].write(thread, kRace);
    std::memcpy(reinterpret_cast<char*>(&words_[number]) + 2 * half, &value, sizeof(value));
  }

  void copy(std::uint32_t to, const char* from, int thread) {
    Copy copy{to, from, {}};
    for (int w = 0; w < 4; ++w) {
      slabs.begin_copy(from + 4 * w, thread);
      std::memcpy(copy.words + w, from + 4 * w, 4);
      write(to + 4 * w, kPoison, thread);
    }
    copies_[thread].push_back(copy);
  }
  void commit(int thread) {
    pending_[thread].push_back(std::move(copies_[thread]));
    copies_[thread].clear();
  }
  void wait(std::size_t groups, int thread) {
    auto& pending = pending_[thread];
    while (pending.size() > groups) {
      for (const Copy& copy : pending.front()) {
        for (int w = 0; w < 4; ++w) {
          slabs.end_copy(copy.from + 4 * w, thread);
          write(copy.to + 4 * w, copy.words[w], thread);
        }
      }
      pending.erase(pending.begin());
    }
  }

 private:
  struct Copy {
    std::uint32_t to;
    const char* from;
    std::uint32_t words[4];
  };

  std::size_t number_of(std::uint32_t address) const {
    const std::size_t number = (address - kSharedStart) / 4;
    if (address < kSharedStart || address % 4 != 0 || number >= words_.size()) {
      fail(kOutOfBounds, "access outside of shared memory");
    }
    return number;
  }

  std::vector<std::uint32_t> words_;
  std::vector<WordUse> uses_;                            // of each half of a word
  std::vector<std::vector<Copy>> copies_;                // of each thread, not yet in a group
  std::vector<std::vector<std::vector<Copy>>> pending_;  // groups of each thread
};

inline SharedMemory shared;

// The memory of a launch: of each block so many bytes that are shared, of all blocks together the slabs.
inline void use_memory(std::size_t shared_bytes, char* slab_start, std::size_t slab_bytes) {
  slabs.resize(slab_start, slab_bytes);
  block_start = [shared_bytes] { shared.resize(shared_bytes); };
  barrier_passed = [] { ++epoch; };
}

}  // namespace cuda_emulation
