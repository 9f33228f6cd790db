// One sample's weighted features z = (x - mu) / sqrt(t M) by block rows of channels: statistics, panels of them in
// shared memory, and single blocks in registers.
#pragma once

#include "device/features.cuh"
#include "device/pooled.cuh"
#include "device/statistics.cuh"
#include "isqrt_pool/positions/arguments.h"
#include "isqrt_pool/positions/slab_rows.cuh"

namespace gcp_kernels {

// Block columns of a product with features that a warp sums at a time.
template <Form kForm>
constexpr int kColumns = most_blocks(kForm) < kMostColumns ? most_blocks(kForm) : kMostColumns;

// Numbers that all threads have, kept out of the registers, in the place of channel arrays; each can be read after the
// next barrier.
enum class Kept : int { kTrace, kWeight, kLargest, kSpan, kIdentity, kScale, kSlab };

__device__ inline void keep(const Workspace& workspace, Kept name, float value) {
  if (threadIdx.x == 0) store_shared(workspace.channels(0) + static_cast<int>(name) * 4, as_word(value));
}
__device__ inline float kept(const Workspace& workspace, Kept name) {
  return as_float(load_shared(workspace.channels(0) + static_cast<int>(name) * 4));
}

// The features of one sample with what makes them z: the weight is kept, and the centres of all samples are in global
// memory, since there may be any number of channels.
struct WeightedSample {
  const Workspace& workspace;
  const Sample& sample;
  const float* centres;

  __device__ const float* own_centres() const { return centres + sample.number() * sample.features.channels; }
  __device__ WeightedChannel channel(int number) const {
    if (number >= sample.features.channels) return {0.0f, 0.0f, 0.0f};
    return {sample.element(number, 0), own_centres()[number], kept(workspace, Kept::kWeight)};
  }
};

// To the next sample, if there is one, when everyone is done.
__device__ inline bool next_sample(Sample& sample, std::int64_t batch) {
  return sample.template advance<Form::kStreamed>(batch);
}

// Octets of a lane in a row of a matrix of the small form; of the others there are as many as of any row.
template <Form kForm>
constexpr int kOctetsOfStatistics = kForm == Form::kSmall ? 2 : kOctetsAtOnce;

// Leaves the centre of every channel in `centres`, and gives the sum of squares of x - mu.
template <Form kForm>
__device__ inline float store_statistics(const Workspace& workspace, const Sample& sample, int channel_blocks,
                                         float* centres) {
  const int lane = lane_of_thread(), positions = sample.features.positions;
  float total = 0.0f;
#pragma unroll 1
  for (int group = warp_of_thread(); group < channel_blocks * 2; group += blockDim.x / kWarpSize) {
    const int channel = group * kLaneRows + lane % kLaneRows;
    const bool inside = channel < sample.features.channels;
    const Row row = sample.row_of(channel);
    LaneMoments lanes{row.first(), 1.0f};
    constexpr int kAtOnce = kOctetsOfStatistics<kForm>;
    sample.for_octets<kAtOnce>(
        row, 0, positions, [&](const OctetWords(&words)[kAtOnce], int position) { lanes.add(row, words, position); });
    const Moments moments = moments_of_octets(lanes.moments(), 1.0f);
    if (lane < kLaneRows && inside) {
      centres[channel] = moments.total / static_cast<float>(positions);
      total += moments.squares;
    }
  }
  return block_sum(workspace, total);
}

// A panel of block rows in shared memory: block (r, k) is number r * blocks + k, a second plane follows the first.
struct Panel {
  SharedAddress start;
  int blocks;
  int plane_bytes;

  __device__ SharedAddress block(int r, int k, bool low) const {
    return start + (r * blocks + k) * kBlockBytes + (low ? plane_bytes : 0);
  }
  // A lane's share of a block.
  __device__ LiftedBlock<1> elements(int r, int k, int planes) const {
    LiftedBlock<1> elements;
#pragma unroll
    for (int w = 0; w < 4; ++w) {
      const SharedAddress own = block(r, k, false) + w * kTileBytes + lane_of_thread() * 4;
      const std::uint32_t high = load_shared(own), low = planes == 2 ? load_shared(own + plane_bytes) : 0;
      elements.value[2 * w] = first_half(high) + first_half(low);
      elements.value[2 * w + 1] = second_half(high) + second_half(low);
    }
    return elements;
  }
};

__device__ inline Panel panel_at(SharedAddress start, int rows, int blocks) {
  return {start, blocks, rows * blocks * kBlockBytes};
}

// Octets that a lane loads at once: beside the sums of large tiles there are registers for one.
template <Form kForm>
constexpr int kOctetsOfRow = most_blocks(kForm) > kMostColumns ? 1 : 2;

// Stores block rows `first` to `first` + `rows` of z, lifted, in the panel; and with `keep` in kept(), for who needs
// them again: to copy them from there is a tenth of the instructions.
template <Form kForm, typename Kept>
__device__ inline void stage_rows(const WeightedSample& weighted, int first, int rows, int planes, const Panel& panel,
                                  bool keep, Kept kept) {
#pragma unroll 1
  for (int group = warp_of_thread(); group < rows * 2; group += blockDim.x / kWarpSize) {
    const int row = group * kLaneRows + lane_of_thread() % kLaneRows;
    WeightedChannel channel = weighted.channel(first * kBlockSide + row);
    channel.weight *= lift().value;
    const SharedAddress start = panel.block(row / kBlockSide, 0, false) + row / kLaneRows % 2 * kTileBytes +
                                row % kLaneRows * static_cast<int>(sizeof(TileRow));
    weighted.sample.for_each_octet<kOctetsOfRow<kForm>>(
        weighted.sample.row_of(first * kBlockSide + row), 0, panel.blocks * kBlockSide,
        [&](const Octet& octet, int position, int there) {
          const SharedAddress at = start + position / kBlockSide * kBlockBytes + position / kOctet % 2 * 2 * kTileBytes;
          const SplitRow z = split_octet(channel.of(octet, there));
          store_split(at, panel.plane_bytes, planes, z);
          if (!keep) return;
          const SlabRows slab = kept();
          char* const to = slab.block(first, 0, false) + (at - panel.start);
          store_slab(to, z.high);
          if (planes == 2) store_slab(to + slab.plane_bytes, z.low);
        });
  }
}

// A block as an operand, and what rounding to halves took away from it.
struct SplitFragment {
  Fragment high, low;
};

__device__ inline SplitFragment split_fragment(const LiftedBlock<1>& elements) {
  SplitFragment split;
#pragma unroll
  for (int w = 0; w < 4; ++w) {
    const SplitPair pair = split_pair(elements.value[2 * w], elements.value[2 * w + 1]);
    split.high.word[w] = pair.high;
    split.low.word[w] = pair.low;
  }
  return split;
}

}  // namespace gcp_kernels
