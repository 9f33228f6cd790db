// The gradient of iSQRT-COV pooling on the side of the positions in one launch.
//
//   G, the direction -> H = G z -> P = z^T H and K = z^T z -> the iteration on (W, dW), (V, dV), (Z, dZ) -> q and L
//   grad_x = max|G| / sqrt(M)  (z (span L + a I) + H q),   the trace term a = -<q, P> / 2 - <L, K>
//
// with z as in forward.cuh, G + G^T divided by its largest magnitude and P by its span, M times its own, which are
// undone at the end: the derivative is linear in both, and no tangent has an eigenvalue above 1 to start with. z and
// H, C rows of M, are in the slab, and so are K and P, which the iteration takes the place of and the trace term needs.
#pragma once

#include "isqrt_pool/inner_product.cuh"
#include "isqrt_pool/iteration.cuh"
#include "isqrt_pool/positions/direction.cuh"
#include "isqrt_pool/positions/gradient.cuh"
#include "isqrt_pool/positions/gram.cuh"
#include "isqrt_pool/positions/slab.cuh"

namespace gcp_kernels {

// Adds to the diagonal of a block that is on it.
__device__ inline void add_to_diagonal(LiftedBlock<1>& elements, float value) {
#pragma unroll
  for (int e = 0; e < 8; ++e) {
    if (element_row(0, e) == element_column(0, e)) elements.value[e] += (value * lift()).value;
  }
}

template <Form kForm, int kPlanes>
__global__ void __launch_bounds__(kMostThreadsOf<kForm>, kLeastCtasBackward<kForm>)
    isqrt_pool_positions_backward_kernel(const PositionsBackwardArguments arguments) {
  const PositionsLayout& layout = arguments.layout;
  const Workspace workspace(layout.matrices, arguments.slabs);
  const PositionsSlab slab(layout, workspace);
  const auto positions = [&] { return recomputed(arguments.x.positions); };  // registers are dear
  using M = Matrices<true>;
  TileSums<kForm> sums;

  WarpTile<kForm>::assign(workspace.tiles(), layout.blocks());
  Sample sample(arguments.x, workspace);
  do {
    const WeightedSample weighted{workspace, sample, arguments.centre};
    const float trace = arguments.trace[sample.number()];
    keep(workspace, Kept::kTrace, trace);
    keep(workspace, Kept::kWeight, inverse_root(trace * static_cast<float>(positions())));
    const float largest = largest_of_gradient(workspace, arguments.grad, sample.number(), layout.channel_blocks);
    keep(workspace, Kept::kLargest, largest);
    store_direction_rows<kForm, kPlanes>(workspace, layout, arguments.grad, weighted, slab);

    // Twice P, as z^T H and its transpose: symmetric but for rounding, which the iteration needs, since what is not
    // would grow by 9/4 in every step. Then K from the same rows.
    const auto rows_at_once = [&] {
      return min(recomputed(layout.room()) / (2 * layout.row_bytes()), layout.channel_blocks);
    };
    const auto z = [&] { return panel_at(workspace.start(), rows_at_once(), layout.blocks()); };
    const auto h = [&] {
      return panel_at(workspace.start() + rows_at_once() * layout.row_bytes(), rows_at_once(), layout.blocks());
    };
    sum_rows<kForm, 2, kMostSummedRows<kPlanes> / 2>(
        workspace, layout.channel_blocks, rows_at_once(), sums,
        [&](int which) { return which == 0 ? slab.direction() : slab.gram(); },
        [&](int first, int rows) {
          copy_rows<kPlanes>(slab.features(), first, rows, z());
          copy_rows<kPlanes>(slab.rows(), first, rows, h());
          wait_for_copies<0>();
        },
        [&](int which, int first, int rows) {
#pragma unroll 1
          for (int product = which == 0 ? 0 : 2; product < (which == 0 ? 2 : 3); ++product) {
            const Panel u = product == 1 ? h() : z(), v = product == 0 ? h() : z();
            multiply_panels<kForm, kPlanes>(workspace, u, v, first, rows, sums);
          }
        });

    float largest_tangent = 0.0f;
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const LiftedBlock<2> twice = slab.direction().load(packed_block(i, j));
#pragma unroll
      for (int e = 0; e < 8; ++e) largest_tangent = larger(largest_tangent, fabsf(twice.value[e]));
    });
    largest_tangent = number(unlift() * unlift() * Lifted<2>{block_max(workspace, largest_tangent)});
    keep(workspace, Kept::kSpan, 0.5f * largest_tangent * static_cast<float>(positions()));
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const int block = packed_block(i, j);
      const LiftedBlock<1> w =
          regularised(slab.gram().load(block), i, j, positions(), kept(workspace, Kept::kTrace) == 0.0f);
      const LiftedBlock<0> twice = times(unlift() * unlift(), slab.direction().load(block));
      const LiftedBlock<1> dw = direction_of(twice, largest_tangent, lift() / static_cast<float>(positions()));
      const LiftedBlock<1> z = first_factor(w, arguments.n_iter), dz = first_factor(dw, arguments.n_iter);
      slab.gram().store(block, w);
      slab.direction().store(block, dw);
      if (arguments.n_iter == 1) {
        store_factor<kForm, kPlanes, true>(workspace, false, block, z);
        store_factor<kForm, kPlanes, true>(workspace, true, block, dz);
      } else {
        store_elements<kForm, kPlanes>(workspace, M::kW, block, w);
        store_elements<kForm, kPlanes>(workspace, M::kDW, block, dw);
        store_elements<kForm, kPlanes>(workspace, M::kY, block, z);
        store_elements<kForm, kPlanes>(workspace, M::kDY, block, dz);
      }
    });
    iterate<kForm, kPlanes, true, true>(workspace, arguments.n_iter, Floats<1>{}, sums);

    float trace_term = 0.0f;  // over the span; this thread's part
    for_each_block<kForm>(workspace, [&](int i, int j) {
      const int block = packed_block(i, j);
      LiftedBlock<1> q = load_split<kForm>(workspace, factor_split(), block);
      if (i == j) add_to_diagonal(q, identity_of(arguments.n_iter, arguments.n_iter));
      const LiftedBlock<1> l = load_split<kForm>(workspace, factor_derivative(kPlanes), block);
      const Lifted<2> with_q = inner_product(q, slab.direction().template load_lifted<1>(block), i, j);
      const Lifted<2> with_l = inner_product(l, slab.gram().template load_lifted<1>(block), i, j);
      trace_term -= number(unlift() * unlift() * Lifted<2>{0.5f * with_q.value + with_l.value});
    });
    trace_term = block_sum(workspace, trace_term);
    for_each_block<kForm>(workspace, [&](int i, int j) {
      if (i != j) return;
      LiftedBlock<1> l = load_split<kForm>(workspace, factor_derivative(kPlanes), packed_block(i, j));
      add_to_diagonal(l, trace_term);
      store_split<kForm>(workspace, factor_derivative(kPlanes), packed_block(i, j), l);
    });
    store_gradient_rows<kForm, kPlanes>(workspace, layout, sample, slab, arguments.n_iter, arguments.grad_x);
  } while (next_sample(sample, arguments.batch));
}

}  // namespace gcp_kernels
