"""gcp_kernels.compat.mpncov for the file that people carry: its shapes and values, and where copies are wrong."""

import numpy as np
import pytest
import torch
from torch import nn
from torch.profiler import ProfilerActivity, profile

from gcp_kernels import reference
from gcp_kernels.compat import mpncov
from gcp_kernels.compat.mpncov import MPNCOV, CovpoolLayer, SqrtmLayer, TriuvecLayer, from_lower_order
from gcp_kernels.nn import GCP
from tests.support import inputs, tolerances

X = inputs.relu_features(3, 6, 20, torch.float64).unflatten(2, (4, 5))


def lower_by_definition(matrices):
    """Read the lower triangle row by row, as the first copies do."""
    rows, columns = torch.tril_indices(*matrices.shape[-2:])
    return matrices[:, rows, columns]


@pytest.mark.parametrize("iterations", [1, 3, 5])
def test_the_functions_give_the_values_shapes_and_gradients_of_the_reference(iterations):
    def ours(x):
        cov = CovpoolLayer(x)
        return cov, SqrtmLayer(cov, iterations), TriuvecLayer(SqrtmLayer(cov, iterations))

    def exact(x):
        cov = reference.covariance_pool(x.flatten(2))
        root = reference.newton_schulz_sqrt(cov, iterations)
        return cov, root, reference.triu_vec(root).unsqueeze(-1)

    results = []
    for function in (ours, exact):
        x = X.clone().requires_grad_()
        outputs = function(x)
        generator = torch.Generator().manual_seed(1)
        # Not symmetric: for such gradients of a root the copies are wrong.
        upstream = [torch.randn(one.shape, generator=generator, dtype=one.dtype) for one in outputs]
        results.append((*outputs, *torch.autograd.grad(outputs, x, upstream)))
    assert [one.shape for one in results[0]] == [(3, 6, 6), (3, 6, 6), (3, 21, 1), (3, 6, 4, 5)]
    for actual, wanted in zip(*results, strict=True):
        tolerances.assert_same_float64(actual, wanted, "a function of the copies")


@pytest.mark.parametrize("is_sqrt", [True, False])
@pytest.mark.parametrize("order", ["upper", "lower"])
def test_the_layer_is_its_steps_fused(is_sqrt, order):
    layer = MPNCOV(5, is_sqrt, True, 6, 4, order=order).double().eval()
    full = MPNCOV(5, is_sqrt, False, 6, 4).double().eval()
    full.load_state_dict(layer.state_dict())
    x = layer.conv_dr_block(X)
    cov = reference.covariance_pool(x.flatten(2))
    wanted = reference.newton_schulz_sqrt(cov, 5) if is_sqrt else cov
    tolerances.assert_same_float64(full(X), wanted, "the matrix")
    vector = reference.triu_vec(wanted).unsqueeze(-1) if order == "upper" else lower_by_definition(wanted)
    assert layer(X).shape == vector.shape == (3, 10, 1)[: 3 if order == "upper" else 2]
    tolerances.assert_same_float64(layer(X), vector, "the vector")
    assert (layer.output_dim, full.output_dim) == (10, 16)


def test_a_step_that_is_replaced_is_called():
    class Doubled(MPNCOV):
        def _sqrtm(self, x):
            return 2 * super()._sqrtm(x)

    plain, doubled = MPNCOV(5, input_dim=6), Doubled(5, input_dim=6)
    torch.testing.assert_close(doubled(X), 2 * plain(X))
    plain._cov_pool = lambda x: 9 * CovpoolLayer(x)
    torch.testing.assert_close(plain(X), 3 * MPNCOV(5, input_dim=6)(X))


def test_its_parameters_have_the_names_and_the_initialisation_of_the_copies():
    layer = MPNCOV(5, input_dim=512, dimension_reduction=256)
    names = ["0.weight", "1.weight", "1.bias", "1.running_mean", "1.running_var", "1.num_batches_tracked"]
    assert list(layer.state_dict()) == [f"conv_dr_block.{name}" for name in names]
    GCP(512).load_state_dict(layer.state_dict())
    spread = layer.conv_dr_block[0].weight.std().item()  # He et al., fan-out
    assert spread == pytest.approx((2 / 256) ** 0.5, rel=0.02)
    assert not MPNCOV(input_dim=8).state_dict()
    layer.more = nn.Conv2d(3, 64, 1)  # of a subclass, say
    layer._init_weight()
    assert layer.more.weight.std().item() == pytest.approx((2 / 64) ** 0.5, rel=0.2)
    assert MPNCOV(np.int64(5), input_dim=np.int64(6)).iterNum == 5
    assert MPNCOV().iterNum == 3
    assert (layer.dr, layer.is_sqrt, layer.is_vec) == (256, True, True)


def test_the_vector_order_of_early_copies_and_its_conversion():
    asymmetric = torch.arange(9.0).view(1, 3, 3).requires_grad_()
    vector = TriuvecLayer(asymmetric, order="lower")
    assert vector.tolist() == [[0, 3, 4, 6, 7, 8]]
    vector.sum().backward()
    assert torch.equal(asymmetric.grad[0], torch.ones(3, 3).tril())
    torch.manual_seed(0)
    classifier = nn.Linear(21, 4).double()
    trained = classifier(MPNCOV(5, input_dim=6, order="lower")(X))  # as an early copy would have trained it
    today = MPNCOV(5, input_dim=6)
    assert (classifier(today(X).flatten(1)) - trained).norm() > 0.05 * trained.norm()
    state = classifier.state_dict()
    state["weight"] = from_lower_order(state["weight"])
    converted = nn.Linear(21, 4).double()
    converted.load_state_dict(state)
    torch.testing.assert_close(converted(today(X).flatten(1)), trained)
    torch.testing.assert_close(converted(GCP(6, dim=None)(X)), trained)


def test_second_order_channel_attention_needs_no_matrix_of_the_positions():
    """(1, 64, 250, 100): a square matrix of the positions would be 2.5 GB; features are 6.4 MB."""
    x = torch.randn(1, 64, 250, 100, requires_grad=True)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        weights = SqrtmLayer(CovpoolLayer(x), 5).mean(1).view(1, 64, 1, 1).sigmoid()
        (weights * x).square().sum().backward()
    largest = max(event.cpu_memory_usage for event in profiler.events())
    assert largest <= 2 * x.numel() * x.element_size()
    assert x.grad.isfinite().all()


def test_constant_and_single_positions_give_zeros_and_callers_keep_their_tensors():
    x = torch.full((2, 5, 3, 3), 3.7, requires_grad=True)
    pooled = TriuvecLayer(SqrtmLayer(CovpoolLayer(x), 5))
    pooled.sum().backward()
    assert not pooled.any()
    assert not x.grad.any()
    assert not MPNCOV(5, input_dim=5).eval()(torch.randn(2, 5, 1, 1)).any()
    given = X.clone()
    MPNCOV(5, input_dim=6)(given)
    assert torch.equal(given, X)


def test_a_backward_pass_under_autocast():
    layer, x = MPNCOV(5, input_dim=6, dimension_reduction=4), X.float().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        pooled = layer(x)
        pooled.square().sum().backward()
    assert pooled.dtype == torch.bfloat16
    assert x.grad.isfinite().all()
    assert x.grad.any()


def test_the_autograd_functions_of_the_copies_are_the_functions():
    root = mpncov.Sqrtm.apply(mpncov.Covpool.apply(X), 5)
    torch.testing.assert_close(mpncov.Triuvec.apply(root), MPNCOV(5, input_dim=6)(X))


def test_wrong_arguments_are_named():
    for call, message in (
        (lambda: SqrtmLayer(torch.eye(3)[None], 0), "iterN must be at least 1, got 0"),
        (lambda: TriuvecLayer(torch.eye(3)[None], "column"), "order must be one of 'upper', 'lower', got 'column'"),
        (lambda: MPNCOV(0), "iterNum must be at least 1, got 0"),
        (lambda: MPNCOV(dimension_reduction=0), "dimension_reduction must be at least 1, got 0"),
        (lambda: MPNCOV(input_dim=8, dimension_reduction=4)(X.float()), "the input must have 8 channels"),
        (lambda: MPNCOV(input_dim=6)(X[..., :1, :1]), "expected more than 1 position per sample when training"),
        (lambda: from_lower_order(torch.ones(2, 7)), r"C\(C\+1\)/2 elements for some C, got 7"),
    ):
        with pytest.raises(ValueError, match=message):
            call()
