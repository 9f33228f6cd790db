// iSQRT-COV pooling on the side of the positions in one launch, a CTA for each sample.
//
//   mean, trace -> K = z^T z with z = (x - mu) / sqrt(t M) -> N - 1 Newton-Schulz steps for the factor q(K)
//   -> sqrt(t) z q(K) z^T
//
// which is sqrt(t) Y_N of A = z z^T, on (M, M) instead of (C, C) matrices (docs/mathematics.md).
#pragma once

#include "isqrt_pool/iteration.cuh"
#include "isqrt_pool/positions/gram.cuh"
#include "isqrt_pool/positions/products.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

template <Form kForm, int kPlanes>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasBackward<kForm>)
    isqrt_pool_positions_forward_kernel(const PositionsForwardArguments arguments) {
  const PositionsLayout& layout = arguments.layout;
  const Workspace workspace(layout.matrices, arguments.slabs);
  const PositionsSlab slab(layout, workspace);
  const int positions = arguments.x.positions;
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), layout.blocks());
  Sample sample(arguments.x, workspace);
  do {
    const WeightedSample weighted{workspace, sample, arguments.centre};
    const float total = store_statistics<kForm>(workspace, sample, layout.channel_blocks,
                                                arguments.centre + sample.number() * arguments.x.channels);
    keep(workspace, Kept::kWeight, inverse_root(total));
    const float trace = total / static_cast<float>(positions);
    keep(workspace, Kept::kTrace, trace);
    if (threadIdx.x == 0) arguments.trace[sample.number()] = trace;

    const int rows_at_once = min(layout.panel_rows(), layout.channel_blocks);
    const Panel panel = panel_at(workspace.start() + layout.panel_offset, rows_at_once, layout.blocks());
    sum_rows<kForm, 1, kMostSummedRows<kPlanes>>(
        workspace, layout.channel_blocks, rows_at_once, sums, [&](int) { return slab.gram(); },
        [&](int first, int rows) {
          stage_rows<kForm>(weighted, first, rows, kPlanes, panel, !layout.keeps_features(),
                            [&] { return slab.features(); });
        },
        [&](int, int first, int rows) { multiply_panels<kForm, kPlanes>(workspace, panel, panel, first, rows, sums); });
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const int block = packed_block(i, j);
      const LiftedBlock<1> w =
          regularised(slab.gram().load(block), i, j, positions, kept(workspace, Kept::kTrace) == 0.0f);
      const LiftedBlock<1> z = first_factor(w, arguments.n_iter);
      if (arguments.n_iter == 1) {
        store_factor<kForm, kPlanes, false>(workspace, false, block, z);
      } else {
        store_elements<kForm, kPlanes>(workspace, Matrices<false>::kW, block, w);
        store_elements<kForm, kPlanes>(workspace, Matrices<false>::kY, block, z);
      }
    });
    iterate<kForm, kPlanes, false, true>(workspace, arguments.n_iter, Floats<1>{}, sums);
    keep(workspace, Kept::kIdentity, identity_of(arguments.n_iter, arguments.n_iter));
    keep(workspace, Kept::kScale, sqrtf(kept(workspace, Kept::kTrace)) / unit_of(arguments.n_iter));
    store_products<kForm, kPlanes>(workspace, layout, sample, arguments.pooled, slab);
  } while (next_sample(sample, arguments.batch));
}

}  // namespace gcp_kernels
