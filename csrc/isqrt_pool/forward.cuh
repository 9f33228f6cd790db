// iSQRT-COV pooling of (B, C, M) features in one launch, one CTA for each sample.
//
//   mean, trace -> A = z z^T with z = (x - mu) / sqrt(t M) -> N Newton-Schulz iterations -> sqrt(t) Y_N
//
// All matrices are symmetric, in packed blocks (symmetric.cuh), and stay in shared memory where that is large enough.
#pragma once

#include "device/result_rows.cuh"
#include "isqrt_pool/arguments.h"
#include "isqrt_pool/covariance.cuh"
#include "isqrt_pool/iteration.cuh"

namespace gcp_kernels {

template <Form kForm, int kPlanes>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasOf<kForm>)
    isqrt_pool_forward_kernel(const IsqrtPoolForwardArguments arguments) {
  const Workspace workspace(arguments.layout, arguments.slabs);
  const int channels = arguments.x.channels;
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), workspace.layout.blocks);
  Sample sample(arguments.x, workspace);
  do {
    float total = 0.0f;  // first this thread's part
    find_statistics(workspace, sample, [](int) { return 1.0f; }, [&](int, float squares) { total += squares; });
    total = block_sum(workspace, total);
    store_centres(workspace, channels, arguments.centre + sample.number() * channels);
    const float weight = inverse_root(total);
    set_weights(workspace, sample, [&](int) { return weight; });
    const float trace = total / static_cast<float>(arguments.x.positions);
    workspace.keep_scalar(trace);
    if (threadIdx.x == 0) arguments.trace[sample.number()] = trace;

    multiply_features<kForm>(workspace, sample, kPlanes, sums);
    store_covariance<kForm, kPlanes, false>(workspace, sums);
    constexpr Floats<1> kRoot = forward_root();
    iterate<kForm, kPlanes, false>(workspace, arguments.n_iter, kRoot, sums);
    const Lifted<-1> scale = sqrtf(workspace.kept_scalar()) * unlift();
    block_barrier();  // the root is written
    for_each_block_row<kForm>(workspace, plane_of(Matrices<false>::kY, kPlanes), [&](int i, SharedAddress ring) {
      store_result_rows(arguments.pooled, sample.number(), i, i, workspace.layout.blocks, ring,
                        [&](int j) { return times(scale, load_floats<kForm>(workspace, kRoot, packed_block(i, j))); });
    });
  } while (sample.advance<kForm>(arguments.batch));
}

}  // namespace gcp_kernels
