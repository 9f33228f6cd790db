// C entries that run the pooling kernels of csrc under emulation, for ctypes. With FAST_ONLY those of "fast"
// iSQRT-COV pooling alone, with CHANNELS_ONLY or POSITIONS_ONLY those of one side, and with COVARIANCE_ONLY those of
// plain covariances, which compile in less time.
#include "emulation.h"
// Behind the emulation, which the kernels take for CUDA.
#include "covariance_pool/backward.cuh"
#include "covariance_pool/forward.cuh"
#include "isqrt_pool/backward.cuh"
#include "isqrt_pool/forward.cuh"
#include "isqrt_pool/positions/backward.cuh"
#include "isqrt_pool/positions/forward.cuh"

using namespace gcp_kernels;

namespace {

// As in csrc/pooling_launch.h: where there are slabs, fewer CTAs than samples share the work.
template <typename AnyLayout>
int run(const AnyLayout& layout, char* slabs, std::int64_t batch, unsigned grid, int reversed,
        const std::function<void()>& body) {
  if (!layout.fits()) return -2;  // in this much shared memory
  if (batch == 0) return 0;
  if (layout.slab_bytes() == 0 || grid > batch) grid = batch;
  cuda_emulation::use_memory(layout.shared_bytes(), slabs, grid * layout.slab_bytes());
  const unsigned threads = layout.warps() * kWarpSize;
  return cuda_emulation::launch({grid, 1, 1}, {threads, 1, 1}, reversed, body);
}

}  // namespace

extern "C" {

void layout_of(int channels, int planes, int backward, int shared_limit, std::int64_t* result) {
  const Layout layout = layout_for(channels, planes, backward ? backward_pass(planes) : kForwardPass, shared_limit);
  const std::int64_t values[] = {layout.blocks,         layout.matrices,     layout.resident,    layout.ring_columns,
                                 layout.shared_bytes(), layout.slab_bytes(), warp_tiles(layout), layout.room()};
  for (std::int64_t value : values) *result++ = value;
}

// Of each warp the first block row and column of its tile, and how many blocks it owns; how many blocks of tiles of
// `rows` block rows the busiest quarter of a multiprocessor has.
int tiling_of(int blocks, int rows, int* result) {
  const Tiling tiling = gcp_kernels::tiling_of(blocks, rows);
  for (const TileBlocks& tile : tiling.tile) {
    for (int value : {int{tile.row}, int{tile.column}, int{tile.owned}}) *result++ = value;
  }
  return tiling.busiest;
}

// 0, or -1 where the emulation cannot do that.
int set_tensor_core(int depth, int guard_bits) {
  if ((depth != 4 && depth != 8 && depth != 16) || guard_bits < 0 || guard_bits > 2) return -1;
  cuda_emulation::tensor_core = {depth, guard_bits};
  return 0;
}

// c += a b for blocks of 16x16, a and b in halves.
void multiply_on_tensor_core(const __half* a, const __half* b, float* c) {
  cuda_emulation::Block left, right, sum;
  for (int i = 0; i < kBlockSide; ++i) {
    for (int j = 0; j < kBlockSide; ++j) {
      left[i][j] = __half2float(a[i * kBlockSide + j]);
      right[i][j] = __half2float(b[i * kBlockSide + j]);
    }
  }
  std::memcpy(sum, c, sizeof(sum));
  cuda_emulation::multiply_blocks(left, right, sum);
  std::memcpy(c, sum, sizeof(sum));
}

void positions_layout_of(int channels, int positions, int planes, int backward, int shared_limit,
                         std::int64_t* result) {
  const PositionsLayout layout = positions_layout(channels, positions, planes, backward, shared_limit);
  const std::int64_t values[] = {
      layout.blocks(),       layout.matrices.matrices, layout.matrices.resident, layout.matrices.ring_columns,
      layout.shared_bytes(), layout.slab_bytes(),      layout.warps(),           layout.room()};
  for (std::int64_t value : values) *result++ = value;
}

long products_executed() { return cuda_emulation::counters->products; }

#if !defined(POSITIONS_ONLY) && !defined(COVARIANCE_ONLY)

int isqrt_pool_forward_emulated(const Features* x, const SymmetricOutput* pooled, float* centre, float* trace,
                                char* slabs, std::int64_t batch, int n_iter, int planes, int shared_limit,
                                unsigned grid, int reversed) {
  const Layout layout = layout_for(x->channels, planes, kForwardPass, shared_limit);
  const IsqrtPoolForwardArguments arguments{*x, *pooled, centre, trace, slabs, batch, n_iter, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) {
      constexpr Form kForm = decltype(form)::value;
#ifndef FAST_ONLY
      if (planes == 2) return isqrt_pool_forward_kernel<kForm, 2>(arguments);
#endif
      isqrt_pool_forward_kernel<kForm, 1>(arguments);
    });
  });
}

int isqrt_pool_backward_emulated(const SymmetricGradient* grad, const Features* x, const float* centre,
                                 const float* trace, const FeatureGradient* grad_x, char* slabs, std::int64_t batch,
                                 int n_iter, int planes, int shared_limit, unsigned grid, int reversed) {
  const Layout layout = layout_for(x->channels, planes, backward_pass(planes), shared_limit);
  const IsqrtPoolBackwardArguments arguments{*grad, *x, centre, trace, *grad_x, slabs, batch, n_iter, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) {
      constexpr Form kForm = decltype(form)::value;
#ifndef FAST_ONLY
      if (planes == 2) return isqrt_pool_backward_kernel<kForm, 2>(arguments);
#endif
      isqrt_pool_backward_kernel<kForm, 1>(arguments);
    });
  });
}

#endif
#if !defined(CHANNELS_ONLY) && !defined(COVARIANCE_ONLY)

int isqrt_pool_positions_forward_emulated(const Features* x, const SymmetricOutput* pooled, float* centre, float* trace,
                                          char* slabs, std::int64_t batch, int n_iter, int planes, int shared_limit,
                                          unsigned grid, int reversed) {
  const PositionsLayout layout = positions_layout(x->channels, x->positions, planes, false, shared_limit);
  const PositionsForwardArguments arguments{*x, *pooled, centre, trace, slabs, batch, n_iter, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) {
      constexpr Form kForm = decltype(form)::value;
#ifndef FAST_ONLY
      if (planes == 2) return isqrt_pool_positions_forward_kernel<kForm, 2>(arguments);
#endif
      isqrt_pool_positions_forward_kernel<kForm, 1>(arguments);
    });
  });
}

int isqrt_pool_positions_backward_emulated(const SymmetricGradient* grad, const Features* x, const float* centre,
                                           const float* trace, const FeatureGradient* grad_x, char* slabs,
                                           std::int64_t batch, int n_iter, int planes, int shared_limit, unsigned grid,
                                           int reversed) {
  const PositionsLayout layout = positions_layout(x->channels, x->positions, planes, true, shared_limit);
  const PositionsBackwardArguments arguments{*grad, *x, centre, trace, *grad_x, slabs, batch, n_iter, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) {
      constexpr Form kForm = decltype(form)::value;
#ifndef FAST_ONLY
      if (planes == 2) return isqrt_pool_positions_backward_kernel<kForm, 2>(arguments);
#endif
      isqrt_pool_positions_backward_kernel<kForm, 1>(arguments);
    });
  });
}

#endif
#ifndef FAST_ONLY

int covariance_pool_forward_emulated(const Features* x, const ChannelScale* scale, const SymmetricOutput* pooled,
                                     float* centre, char* slabs, std::int64_t batch, int planes, int shared_limit,
                                     unsigned grid, int reversed) {
  const Layout layout = layout_for(x->channels, 1, kCovariancePass, shared_limit);
  const CovariancePoolForwardArguments arguments{*x, *scale, *pooled, centre, slabs, batch, planes, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) { covariance_pool_forward_kernel<decltype(form)::value>(arguments); });
  });
}

int covariance_pool_backward_emulated(const SymmetricGradient* grad, const Features* x, const ChannelScale* scale,
                                      const float* centre, const FeatureGradient* grad_x, void* grad_scale, char* slabs,
                                      std::int64_t batch, int shared_limit, unsigned grid, int reversed) {
  const Layout layout = layout_for(x->channels, 1, kCovariancePass, shared_limit);
  const CovariancePoolBackwardArguments arguments{*grad, *x, *scale, centre, *grad_x, grad_scale, slabs, batch, layout};
  return run(layout, slabs, batch, grid, reversed, [&] {
    with_form(layout.form(), [&](auto form) { covariance_pool_backward_kernel<decltype(form)::value>(arguments); });
  });
}

#endif  // FAST_ONLY

}  // extern "C"
