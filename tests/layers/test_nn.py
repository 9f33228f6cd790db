"""nn.GCP: shapes, parameters, state dict, representation, and the renaming of published checkpoints."""

import pytest
import torch

import gcp_kernels
from gcp_kernels.nn import GCP, DropCov, rename_reduction_keys

pytestmark = pytest.mark.versions


@pytest.mark.parametrize("shape", [(2, 12, 5, 5), (2, 12, 25), (2, 12, 3, 4, 5)])
def test_reduces_and_pools_any_number_of_spatial_dimensions(shape):
    pool = GCP(12, dim=6).eval()
    x = torch.randn(shape)
    reduced = pool.conv_dr_block(x.flatten(2).unsqueeze(-1))
    torch.testing.assert_close(pool(x), gcp_kernels.fused_gcp(reduced))
    assert pool(x).shape == (2, 21)


def test_tokens_give_what_the_same_feature_map_gives():
    pool = GCP(12, dim=6).eval()
    tokens = GCP(12, dim=6, channel_dim=-1).eval()
    tokens.load_state_dict(pool.state_dict())
    x = torch.randn(2, 12, 4, 4)
    torch.testing.assert_close(tokens(x.flatten(2).mT), pool(x))


@pytest.mark.parametrize(
    ("dim", "output", "features", "shape"),
    [
        (6, "triu", 21, (3, 21)),
        (6, "full", 36, (3, 6, 6)),
        (None, "triu", 78, (3, 78)),
        (None, "full", 144, (3, 12, 12)),
    ],
)
def test_out_features_is_the_size_of_one_pooled_sample(dim, output, features, shape):
    pool = GCP(12, dim=dim, output=output)
    pooled = pool(torch.randn(3, 12, 4, 4))
    assert pool.out_features == features == pooled[0].numel()
    assert pooled.shape == shape


def test_without_reduction_there_are_no_parameters():
    assert not list(GCP(12, dim=None).parameters())
    assert not GCP(12, dim=None).state_dict()


def test_a_training_step_changes_every_parameter():
    torch.manual_seed(0)
    pool = GCP(12, dim=6)
    before = {name: parameter.clone() for name, parameter in pool.named_parameters()}
    optimiser = torch.optim.SGD(pool.parameters(), lr=0.1)
    pool(torch.randn(4, 12, 5, 5)).square().sum().backward()
    optimiser.step()
    assert set(before) == {"conv_dr_block.0.weight", "conv_dr_block.1.weight", "conv_dr_block.1.bias"}
    for name, parameter in pool.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_device_and_dtype_arguments_reach_the_parameters():
    pool = GCP(4, dim=3, dtype=torch.float64)
    assert {parameter.dtype for parameter in pool.parameters()} == {torch.float64}
    assert pool(torch.randn(2, 4, 3, 3, dtype=torch.float64)).dtype == torch.float64
    meta = GCP(4, dim=3, device="meta")
    assert all(parameter.is_meta for parameter in meta.parameters())


def test_reset_parameters_draws_new_weights_and_fresh_statistics():
    torch.manual_seed(0)
    pool = GCP(64, dim=32)
    first = pool.conv_dr_block[0].weight.clone()
    pool(torch.randn(4, 64, 3, 3))
    pool.reset_parameters()
    assert not torch.equal(first, pool.conv_dr_block[0].weight)
    assert torch.equal(pool.conv_dr_block[1].running_mean, torch.zeros(32))
    # He et al., fan-out: a 1x1 convolution to 32 channels has standard deviation sqrt(2 / 32).
    assert pool.conv_dr_block[0].weight.std().item() == pytest.approx((2 / 32) ** 0.5, rel=0.1)


def test_repr_tells_the_shapes_and_what_is_not_default():
    assert "GCP(\n  64, dim=32, n_iter=5, out_features=528\n" in repr(GCP(64, dim=32))
    text = repr(GCP(64, dim=None, n_iter=3, channel_dim=-1, precision="high"))
    assert text == "GCP(64, dim=None, n_iter=3, out_features=2080, channel_dim=-1, precision='high')"


def test_options_are_passed_on():
    x = torch.randn(2, 5, 9, dtype=torch.float64)
    pool = GCP(5, dim=None, n_iter=2, output="full", backend="reference")
    expected = gcp_kernels.fused_gcp(x, n_iter=2, output="full", backend="reference")
    assert torch.equal(pool(x), expected)
    with pytest.raises(RuntimeError, match="triton"):
        GCP(5, dim=None, backend="triton")(x)


def published_state(prefix: str, conv: str, norm: str) -> dict[str, torch.Tensor]:
    source = GCP(8, dim=4)
    source.conv_dr_block[1].running_mean.uniform_()
    names = {"conv_dr_block.0": conv, "conv_dr_block.1": norm}
    state = {}
    for key, value in source.state_dict().items():
        module, _, parameter = key.rpartition(".")
        state[f"{prefix}{names[module]}.{parameter}"] = value
    return state


def test_published_checkpoint_loads():
    pool = GCP(8, dim=4)
    state = published_state("", "conv_dr_block.0", "conv_dr_block.1")
    assert set(state) == {
        "conv_dr_block.0.weight",
        *(f"conv_dr_block.1.{n}" for n in ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")),
    }
    pool.load_state_dict(state)
    assert torch.equal(pool.conv_dr_block[1].running_mean, state["conv_dr_block.1.running_mean"])


@pytest.mark.parametrize("prefix", ["", "module.", "module.representation."])
def test_checkpoint_with_layer_reduce_loads_after_renaming(prefix):
    state = published_state(prefix, "layer_reduce", "layer_reduce_bn")
    state[f"{prefix}fc.weight"] = torch.zeros(3, 10)
    renamed = rename_reduction_keys(state)
    assert f"{prefix}fc.weight" in renamed
    pool = GCP(8, dim=4)
    pool.load_state_dict({key.removeprefix(prefix): value for key, value in renamed.items() if "conv_dr" in key})
    assert torch.equal(pool.conv_dr_block[0].weight, state[f"{prefix}layer_reduce.weight"])
    assert torch.equal(pool.conv_dr_block[1].running_mean, state[f"{prefix}layer_reduce_bn.running_mean"])


def test_renaming_refuses_two_entries_for_one_name():
    with pytest.raises(ValueError, match=r"conv_dr_block\.0\.weight"):
        rename_reduction_keys({"layer_reduce.weight": 1, "conv_dr_block.0.weight": 2})


@pytest.mark.parametrize("layer", [GCP, DropCov])
@pytest.mark.parametrize("option", ["channel_dim", "output", "precision", "backend"])
def test_every_option_is_passed_on(layer, option):
    """The function refuses what the layer did not have when it was made."""
    pool = layer(4, dim=6, dtype=torch.float64)
    setattr(pool, option, 7 if option == "channel_dim" else "none")
    with pytest.raises(ValueError, match=option):
        pool(torch.randn(2, 4, 3, 3, dtype=torch.float64))
