// C entries that run the pooling kernels of csrc under emulation, for ctypes. With FAST_ONLY those of "fast"
// iSQRT-COV pooling alone, which compile in a third of the time.
#include "emulation.h"
// Behind the emulation, which the kernels take for CUDA.
#include "covariance_pool/backward.cuh"
#include "covariance_pool/forward.cuh"
#include "isqrt_pool/backward.cuh"
#include "isqrt_pool/forward.cuh"

using namespace gcp_kernels;

namespace {

// As in csrc/pooling_launch.h: where matrices are streamed, fewer CTAs than samples share the work.
int run(const Layout& layout, char* slabs, std::int64_t batch, unsigned grid, int reversed,
        const std::function<void()>& body) {
  if (layout.resident == 0) return -2;  // no layout fits in this much shared memory
  if (batch == 0) return 0;
  if (!layout.streams() || grid > batch) grid = batch;
  cuda_emulation::use_memory(layout.shared_bytes(), slabs, grid * layout.slab_bytes());
  const unsigned threads = warp_tiles(layout) * kWarpSize;
  return cuda_emulation::launch({grid, 1, 1}, {threads, 1, 1}, reversed, body);
}

}  // namespace

extern "C" {

void layout_of(int channels, int planes, int backward, int shared_limit, std::int64_t* result) {
  const Layout layout = layout_for(channels, planes, backward ? backward_pass(planes) : kForwardPass, shared_limit);
  const std::int64_t values[] = {layout.blocks,         layout.matrices,     layout.resident,   layout.ring_columns,
                                 layout.shared_bytes(), layout.slab_bytes(), warp_tiles(layout)};
  for (std::int64_t value : values) *result++ = value;
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

long products_executed() { return cuda_emulation::counters->products; }

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
