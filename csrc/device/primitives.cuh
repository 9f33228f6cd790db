// What the kernels take from the hardware, and nothing else does: seven primitives, each one instruction.
//
//   shared memory   a 32-bit address; loads and stores of words and rows, stores of halves
//   slab            global memory that the threads of one CTA share; loads and stores of words
//   ldmatrix        a 16x16 block of halves into the registers of a warp, as it is or transposed; stmatrix, and back
//   mma             16x16 times 16x16 on the tensor cores, summed in float32
//   cp.async        16 bytes from global to shared memory in the background
//   barrier         of the whole block, or of a warp
//   shuffle         exchange within a warp
//
// A block of a matrix is 512 bytes: four 8x8 tiles of halves, 128 contiguous bytes each, in the order in which mma
// wants its left operand: rows 0-7 then 8-15 of columns 0-7, the same of columns 8-15. Lane l of a warp owns four
// bytes of each tile, row l/4, columns 2(l%4) and the next, at 4l: so a block in registers, a `Fragment`, is four words
// a lane, and float32 sums of a block, a `BlockSum`, are laid out alike, two for each word.
//
// Here are the types; primitives_cuda.cuh has the functions. What runs the kernels elsewhere names a header of its own
// in the macro GCP_PRIMITIVES.
#pragma once

#include <cstdint>

namespace gcp_kernels {

constexpr int kWarpSize = 32;
constexpr int kBlockSide = 16;
constexpr int kTileBytes = 128;
constexpr int kBlockBytes = 4 * kTileBytes;

using SharedAddress = std::uint32_t;

struct Fragment {
  std::uint32_t word[4];
};

// value[2w + e] is row 8(w%2) + lane/4, column 8(w/2) + 2(lane%4) + e.
struct BlockSum {
  float value[8];
};

// Eight halves, a row of a tile.
struct alignas(16) TileRow {
  std::uint32_t word[4];
};

}  // namespace gcp_kernels

#ifdef GCP_PRIMITIVES
#include GCP_PRIMITIVES
#else
#include "device/primitives_cuda.cuh"
#endif
