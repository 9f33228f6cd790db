"""Whatever the shape and strides of input and upstream gradient, the result is right and nothing is changed."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from gcp_kernels import covariance_pool, fused_gcp, newton_schulz_sqrt, reference, triu_unvec, triu_vec
from gcp_kernels.nn import GCP
from tests.support import tolerances

pytestmark = pytest.mark.usefixtures("poisoned_memory")


def _same(base: Tensor) -> Tensor:
    return base


# Name: shape of a base tensor, the view of it that is pooled, and where the channels are in the view.
LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor], int]] = {
    "image": ((3, 6, 4, 5), _same, 1),
    "sequence": ((3, 6, 20), _same, 1),
    "video": ((3, 6, 2, 3, 4), _same, 1),
    "five_spatial_dimensions": ((3, 6, 2, 1, 3, 1, 2), _same, 1),
    "tokens": ((3, 20, 6), _same, -1),
    "tokens_by_positive_dim": ((3, 20, 6), _same, 2),
    "channels_in_the_middle": ((3, 4, 6, 5), _same, 2),
    "channels_in_the_middle_from_the_end": ((3, 4, 6, 5), _same, -2),
    "image_with_channels_at_the_end": ((3, 4, 5, 6), _same, -1),
    "channels_last": ((3, 4, 5, 6), lambda base: base.permute(0, 3, 1, 2), 1),
    "channels_last_3d": ((3, 2, 3, 4, 6), lambda base: base.permute(0, 4, 1, 2, 3), 1),
    "height_and_width_transposed": ((3, 6, 4, 5), lambda base: base.transpose(2, 3), 1),
    "batch_and_channels_transposed": ((6, 3, 4, 5), lambda base: base.transpose(0, 1), 1),
    "batch_last": ((6, 4, 5, 3), lambda base: base.permute(3, 0, 1, 2), 1),
    "every_second_sample": ((6, 6, 4, 5), lambda base: base[::2], 1),
    "every_second_channel": ((3, 12, 4, 5), lambda base: base[:, 1::2], 1),
    "every_second_column": ((3, 6, 4, 10), lambda base: base[..., ::2], 1),
    "every_second_position": ((3, 6, 41), lambda base: base[..., 1::2], 1),
    "crop": ((3, 6, 8, 9), lambda base: base[:, :, 2:6, 3:8], 1),
    "patch_tokens_without_class_token": ((3, 21, 6), lambda base: base[:, 1:], -1),
    "offset": ((365,), lambda base: base[5:].view(3, 6, 20), 1),
    "part_of_the_channels": ((3, 9, 4, 5), lambda base: base[:, 2:8], 1),
    "batch_expanded": ((1, 6, 4, 5), lambda base: base.expand(3, -1, -1, -1), 1),
    "channels_expanded": ((3, 1, 4, 5), lambda base: base.expand(-1, 6, -1, -1), 1),
    "positions_expanded": ((3, 6, 1, 5), lambda base: base.expand(-1, -1, 4, -1), 1),
    "overlapping_windows": ((3, 6, 23), lambda base: base.unfold(2, 4, 1), 1),
    "one_channel": ((3, 1, 4, 5), _same, 1),
    "one_position": ((3, 6, 1, 1), _same, 1),
    "one_sample": ((1, 6, 4, 5), _same, 1),
    "negative_view": ((3, 6, 4, 5, 2), lambda base: torch.view_as_complex(base).conj().imag, 1),
}

POOLS: dict[str, tuple[Callable[..., Tensor], Callable[[Tensor], Tensor]]] = {
    "fused_gcp": (fused_gcp, reference.isqrt_pool),
    "covariance_pool": (covariance_pool, reference.covariance_pool),
}


@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize("layout", LAYOUTS)
def test_input_layout(layout: str, pool: str, device: str) -> None:
    shape, view, channel_dim = LAYOUTS[layout]
    base = torch.randn(shape, dtype=torch.float64, device=device).requires_grad_()
    before = base.detach().clone()
    function, exact_function = POOLS[pool]

    x = view(base)
    value = function(x, channel_dim=channel_dim, output="full")
    grad = torch.randn_like(value)
    (gradient,) = torch.autograd.grad(value, base, grad)
    assert torch.equal(base, before), "the storage that the input is a view of was changed"

    # The reference takes (B, C, M): positions in order, channels second.
    features = view(base).resolve_neg().movedim(channel_dim, 1).flatten(2)
    expected = exact_function(features)
    (expected_gradient,) = torch.autograd.grad(expected, base, grad)
    tolerances.assert_same_float64(value, expected, "value")
    tolerances.assert_same_float64(gradient, expected_gradient, "gradient")


# How a gradient arrives from the layer above: (B, C, C) or (B, D), made from a base tensor.
UPSTREAM: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda grad: grad,
    "expanded_over_the_batch": lambda grad: grad[:1].expand_as(grad),
    "one_number_expanded": lambda grad: grad.flatten()[0].expand_as(grad),
    "transposed": lambda grad: grad.transpose(0, -1).contiguous().transpose(0, -1),
    "last_dimensions_transposed": lambda grad: grad.mT.contiguous().mT,
    "sliced": lambda grad: torch.stack([grad, grad.neg()], dim=-1)[..., 0],
    "offset": lambda grad: torch.cat([grad.new_ones(7), grad.flatten()])[7:].view_as(grad),
    "zero": torch.zeros_like,
}

FUNCTIONS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor], tuple[int, ...]]] = {
    "fused_gcp_triu": (fused_gcp, lambda x: reference.triu_vec(reference.isqrt_pool(x)), (3, 5, 9)),
    "fused_gcp_full": (lambda x: fused_gcp(x, output="full"), reference.isqrt_pool, (3, 5, 9)),
    "covariance_pool_triu": (
        lambda x: covariance_pool(x, output="triu"),
        lambda x: reference.triu_vec(reference.covariance_pool(x)),
        (3, 5, 9),
    ),
    "covariance_pool_full": (covariance_pool, reference.covariance_pool, (3, 5, 9)),
    "newton_schulz_sqrt": (newton_schulz_sqrt, reference.newton_schulz_sqrt, (3, 5, 5)),
    "triu_vec": (triu_vec, reference.triu_vec, (3, 5, 5)),
    "triu_unvec": (triu_unvec, reference.triu_unvec, (3, 15)),
}


@pytest.mark.parametrize("upstream", UPSTREAM)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_upstream_gradient_layout(name: str, upstream: str, device: str) -> None:
    function, exact_function, shape = FUNCTIONS[name]
    x = torch.rand(shape, dtype=torch.float64, device=device)
    if name == "newton_schulz_sqrt":
        x = x @ x.mT
    x.requires_grad_()
    value, expected = function(x), exact_function(x)
    grad = UPSTREAM[upstream](torch.randn_like(value))
    before = grad.clone()
    (gradient,) = torch.autograd.grad(value, x, grad)
    (expected_gradient,) = torch.autograd.grad(expected, x, before)
    tolerances.assert_same_float64(gradient, expected_gradient, "gradient")
    assert torch.equal(grad, before), "the upstream gradient was changed"


MATRIX_LAYOUTS: dict[str, tuple[tuple[int, ...], Callable[[Tensor], Tensor]]] = {
    "one_matrix": ((5, 5), _same),
    "many_batch_dimensions": ((2, 1, 3, 5, 5), _same),
    "transposed": ((3, 5, 5), lambda base: base.mT),
    "batch_last": ((5, 5, 3), lambda base: base.permute(2, 0, 1)),
    "batch_dimensions_transposed": ((3, 2, 5, 5), lambda base: base.transpose(0, 1)),
    "sliced": ((3, 10, 7), lambda base: base[:, ::2, 1:6]),
    "expanded": ((1, 5, 5), lambda base: base.expand(4, 5, 5)),
    "one_by_one": ((3, 1, 1), _same),
    "no_matrices": ((2, 0, 5, 5), _same),
}


@pytest.mark.parametrize("layout", MATRIX_LAYOUTS)
def test_triangle_of_matrices_in_any_layout(layout: str, device: str) -> None:
    shape, view = MATRIX_LAYOUTS[layout]
    base = torch.randn(shape, device=device).requires_grad_()
    before = base.detach().clone()
    vector = triu_vec(view(base))
    expected = reference.triu_vec(view(base))
    assert torch.equal(vector, expected)
    grad = torch.randn_like(vector)
    (gradient,) = torch.autograd.grad(vector, base, grad)
    (expected_gradient,) = torch.autograd.grad(expected, base, grad)
    torch.testing.assert_close(gradient, expected_gradient)
    assert torch.equal(triu_unvec(vector), reference.triu_unvec(vector))
    assert torch.equal(base, before)


@pytest.mark.parametrize(
    ("shape", "view"),
    [
        ((15,), _same),
        ((2, 3, 15), _same),
        ((15, 3), lambda base: base.mT),
        ((3, 31), lambda base: base[:, 1::2]),
        ((1, 15), lambda base: base.expand(4, 15)),
        ((0, 15), _same),
    ],
)
def test_triangle_vectors_in_any_layout(shape: tuple[int, ...], view: Callable[[Tensor], Tensor], device: str) -> None:
    v = view(torch.randn(shape, device=device)).requires_grad_()
    matrix = triu_unvec(v)
    assert torch.equal(matrix, reference.triu_unvec(v))
    assert torch.equal(triu_vec(matrix), v)
    grad = torch.randn_like(matrix)
    (gradient,) = torch.autograd.grad(matrix, v, grad)
    folded = grad + grad.tril(-1).mT
    torch.testing.assert_close(gradient, reference.triu_vec(folded))


@pytest.mark.parametrize(
    ("shape", "channel_dim"), [((2, 8, 3, 4), 1), ((2, 8, 12), 1), ((2, 12, 8), -1), ((2, 8, 2, 3, 2), 1)]
)
@pytest.mark.parametrize("dim", [4, None])
def test_layer_takes_maps_sequences_and_tokens(shape: tuple[int, ...], channel_dim: int, dim: int | None) -> None:
    layer = GCP(8, dim, channel_dim=channel_dim, dtype=torch.float64)
    x = torch.randn(shape, dtype=torch.float64)
    before = x.clone()
    y = layer(x)
    assert torch.equal(x, before), "the in-place activation of the reduction reached the input"
    assert y.shape == (2, layer.out_features)
    features = x.movedim(channel_dim, 1).flatten(2)
    if layer.conv_dr_block is not None:
        features = layer.conv_dr_block(features.unsqueeze(-1)).flatten(2)
    tolerances.assert_same_float64(y, reference.triu_vec(reference.isqrt_pool(features)), "pooled")


@pytest.mark.parametrize("pool", POOLS)
def test_the_gradient_has_the_channels_where_the_features_have_them(pool: str, device: str) -> None:
    """A convolution in channels_last would copy any other."""
    x = torch.randn(2, 6, 4, 5, device=device)
    for layout in (torch.contiguous_format, torch.channels_last):
        leaf = x.to(memory_format=layout).requires_grad_()
        (gradient,) = torch.autograd.grad(POOLS[pool][0](leaf).sum(), leaf)
        assert gradient.is_contiguous(memory_format=layout)
