"""Exported and traced graphs, the meta device: right, or an error."""

import pytest
import torch

import gcp_kernels
from gcp_kernels import fused_gcp
from gcp_kernels.nn import GCP
from tests.support import tolerances

pytestmark = pytest.mark.versions

X = torch.relu(torch.randn(3, 5, 4, 4, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def test_an_exported_graph_keeps_no_iterates():
    program = torch.export.export(GCP(5, dim=3).double().eval(), (X,))
    calls = [node for node in program.graph.nodes if "isqrt_pool" in str(node.target)]
    assert len(calls) == 1
    names = [argument.name for argument in torch.ops.gcp_kernels.isqrt_pool.default._schema.arguments]
    assert calls[0].args[names.index("keep_iterates")] is False


def test_an_exported_graph_still_has_its_gradient():
    x = X.clone().requires_grad_()
    program = torch.export.export(GCP(5, dim=None), (x,)).module()
    gradients = [torch.autograd.grad(pooled.square().sum(), x)[0] for pooled in (program(x), fused_gcp(x))]
    torch.testing.assert_close(*gradients, rtol=1e-10, atol=1e-12)


def test_a_traced_layer_passes_torchs_own_check():
    layer = GCP(5, dim=3).double().eval()
    traced = torch.jit.trace(layer, X)
    torch.testing.assert_close(traced(X), layer(X))


@pytest.mark.parametrize("backend", ["auto", "reference"])
def test_meta_tensors_have_shapes_and_any_order_of_gradient(backend):
    x = X.to("meta").requires_grad_()
    (gradient,) = torch.autograd.grad(fused_gcp(x, backend=backend).sum(), x, create_graph=True)
    (second,) = torch.autograd.grad(gradient.sum(), x)
    assert gradient.shape == second.shape == x.shape


def test_trace_zero_gives_zeros_also_for_an_indefinite_matrix():
    cov = torch.diag(torch.tensor([1e10, -1e10]))[None].requires_grad_()
    root = gcp_kernels.newton_schulz_sqrt(cov)
    (gradient,) = torch.autograd.grad(root.sum(), cov)
    assert torch.equal(root, torch.zeros(1, 2, 2))
    assert torch.equal(gradient, torch.zeros(1, 2, 2))


def test_seven_iterations_on_singular_covariances_keep_the_promise():
    x = torch.relu(torch.randn(4, 7, 3, generator=torch.Generator().manual_seed(0)))
    results = []
    for features in (x.clone(), x.double()):
        features.requires_grad_()
        pooled = fused_gcp(features, n_iter=7, backend="auto" if features.dtype == torch.float32 else "reference")
        results.append((pooled.detach(), torch.autograd.grad(pooled.square().sum(), features)[0]))
    for actual, expected in zip(*results, strict=True):
        assert (actual - expected).norm() <= tolerances.PROMISE["high"] * expected.norm()
