// The gradient of iSQRT-COV pooling in one launch, one CTA for each sample.
//
//   A again -> G, the direction -> the iteration on (W, dW), (V, dV), (Y, dY) -> L = dY_N and Y_N
//   A itself waits in the CTA's slab for the trace term
//   grad_x = growth max|G| / sqrt(M)  (L + t I) z,   the trace term t = <G, Y_N> / 2 - <L, A>
//
// with z as in forward.cuh and G + G^T divided by its largest magnitude and by the growth, which are undone at the
// end: the derivative is linear in G, and no tangent leaves the range of halves (docs/mathematics.md).
#pragma once

#include "device/feature_gradient.cuh"
#include "device/staged_gradient.cuh"
#include "isqrt_pool/arguments.h"
#include "isqrt_pool/covariance.cuh"
#include "isqrt_pool/inner_product.cuh"
#include "isqrt_pool/iteration.cuh"

namespace gcp_kernels {

// The growth, which G / max |G| is divided by. C bounds the eigenvalues of G by 1. In the null space of A the tangent
// of W grows by 9/4 in each iteration; above 7 of them that takes a smaller start, but no smaller than for 16.
__device__ inline float growth_of(int channels, int n_iter) {
  const float tangent = exp2f(fminf(1.169925f * static_cast<float>(n_iter - 1) - 8.0f, 9.5f));
  return fmaxf(static_cast<float>(channels), tangent);
}

template <Form kForm, int kPlanes>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasBackward<kForm>)
    isqrt_pool_backward_kernel(const IsqrtPoolBackwardArguments arguments) {
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  constexpr Split kDerivative = derivative_of<true>(kPlanes);
  // Where everything is on chip L is moved to the front, so that all behind it is free for the features.
  constexpr Split kLastDerivative = kStreams<kForm> ? kDerivative : Split{Plane{0}};
  constexpr Floats<1> kRoot = backward_root(kPlanes);
  constexpr Floats<0> kGradient = gradient_floats(kPlanes), kGradientAgain = gradient_floats_again(kPlanes);
  const float positions = static_cast<float>(arguments.x.positions);
  const GradientBlocks<kForm> gradient{workspace, arguments.grad};
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    restore_means(workspace, sample, arguments.centre);
    const float weight = inverse_root(arguments.trace[sample.number()] * positions);
    set_weights(workspace, sample, [&](int) { return weight; });
    multiply_features<kForm, true>(workspace, sample, kPlanes, sums);
    store_covariance<kForm, kPlanes, true>(workspace, sums);

    const float largest = gradient.load(sample.number(), kGradient);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const LiftedBlock<0> twice = gradient.block(kGradient, i, j);
      const LiftedBlock<1> g = direction_of(twice, largest, lift() / growth_of(channels, arguments.n_iter));
      store_term<kForm, kPlanes, true>(workspace, false, true, packed_block(i, j), g);
    });
    workspace.keep_scalar(largest);

    iterate<kForm, kPlanes, true>(workspace, arguments.n_iter, kRoot, sums);
    float trace_term = 0.0f;  // this thread's part
    gradient.load_again(sample.number(), kGradientAgain);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const LiftedBlock<1> root = load_floats<kForm>(workspace, kRoot, packed_block(i, j));
      const LiftedBlock<0> twice = gradient.block_again(sample.number(), kGradientAgain, i, j);
      const LiftedBlock<0> g = direction_of(twice, workspace.kept_scalar(), plain(1.0f));
      const LiftedBlock<2> a = kept_covariance(workspace, i, j);
      const LiftedBlock<1> l = load_split<kForm>(workspace, kDerivative, packed_block(i, j));
      trace_term += number(0.5f * unlift() / growth_of(channels, arguments.n_iter) * inner_product(g, root, i, j));
      trace_term -= number(unlift() * unlift() * unlift() * inner_product(l, a, i, j));
      if (!kStreams<kForm>) store_split<kForm>(workspace, kLastDerivative, packed_block(i, j), l);
    });
    trace_term = block_sum(workspace, trace_term);

    const float undo = growth_of(channels, arguments.n_iter) * workspace.kept_scalar();
    const Lifted<-2> factor = undo / sqrtf(positions) * unlift() * unlift();
    multiply_derivative<kForm>(workspace, sample, kLastDerivative,
                               [&](const LiftedBlock<2>& product, const LiftedBlock<1>& z, int i, int j, int) {
                                 store_gradient(arguments.grad_x, sample, i, j,
                                                combine(factor, product, factor * lift() * trace_term, z));
                               });
  } while (sample.advance<kForm, true>(arguments.batch));
}

}  // namespace gcp_kernels
