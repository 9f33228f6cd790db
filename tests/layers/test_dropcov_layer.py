"""nn.DropCov in the conventions of torch.nn, what dropcov refuses, and the benchmark of it."""

import re
from contextlib import nullcontext

import pytest
import torch

from benchmarks.speed import dropcov as benchmark
from gcp_kernels import covariance_pool, dropcov
from gcp_kernels.nn import GCP, DropCov, rename_reduction_keys
from gcp_kernels.validation import check_generator
from tests.support.dropcov_inputs import features
from tests.support.refusals import refuses

pytestmark = pytest.mark.versions

X = torch.ones(2, 4, 3, 3)
WEIGHT = torch.zeros(1, 1, 3)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("weight", "error", "words"),
    [
        (None, TypeError, ("gate_weight", "NoneType")),
        (torch.zeros(1, 1, 3, dtype=torch.int64), TypeError, ("gate_weight", "int64", "float32")),
        (torch.zeros(3), ValueError, ("gate_weight", "(1, 1, k)", "(3,)")),
        (torch.zeros(1, 1, 4), ValueError, ("gate_weight", "odd", "(1, 1, 4)")),
        (torch.zeros(1, 1, 0), ValueError, ("gate_weight", "odd", "(1, 1, 0)")),
        (torch.zeros(4, 1, 3), ValueError, ("gate_weight", "(4, 1, 3)")),
        (torch.zeros(1, 1, 3, device="meta"), ValueError, ("gate_weight", "cpu", "meta")),
    ],
)
def test_bad_gate_weight(weight, error, words, training):
    with refuses(error, *words):
        dropcov(X, weight, training=training)


@pytest.mark.parametrize(
    ("mask", "error", "words"),
    [
        (torch.ones(2, 4), TypeError, ("mask", "torch.bool", "float32")),
        ([[True] * 4] * 2, TypeError, ("mask", "list")),
        (torch.ones(2, 3, dtype=torch.bool), ValueError, ("mask", "(2, 4)", "(2, 3)")),
        (torch.ones(4, dtype=torch.bool), ValueError, ("mask", "(2, 4)", "(4,)")),
        (torch.ones(2, 4, dtype=torch.bool, device="meta"), ValueError, ("mask", "cpu", "meta")),
    ],
)
def test_bad_mask(mask, error, words):
    with refuses(error, *words):
        dropcov(X, WEIGHT, training=True, mask=mask)


def test_bad_generator():
    with refuses(TypeError, "generator", "int"):
        dropcov(X, WEIGHT, training=True, generator=3)
    with refuses(ValueError, "generator", "meta", "cpu"):
        dropcov(X.to("meta"), WEIGHT.to("meta"), training=True, generator=torch.Generator())
    with refuses(ValueError, "mask", "generator"):
        mask = torch.ones(2, 4, dtype=torch.bool)
        dropcov(X, WEIGHT, training=True, generator=torch.Generator(), mask=mask)


@pytest.mark.parametrize(
    ("given", "device", "fits"),
    [
        ("cuda", "cuda:0", True),
        ("cuda", "cuda:1", True),
        ("cuda:1", "cuda:1", True),
        ("cpu", "cpu", True),
        ("cuda:0", "cuda:1", False),
        ("cuda", "cpu", False),
        ("cpu", "cuda:0", False),
    ],
)
def test_device_of_a_generator(given, device, fits):
    """A generator made for "cuda" has no index; the tensors of a GPU have."""
    stand_in = type("Generator", (torch.Generator,), {"device": torch.device(given)})()
    with nullcontext() if fits else refuses(ValueError, f"device of x, {device}, got {given}"):
        check_generator(stand_in, torch.device(device))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"output": "vector"}, ValueError, ("output", "vector", "'triu'")),
        ({"precision": "exact"}, ValueError, ("precision", "exact", "'fast'")),
        ({"backend": "opencl"}, ValueError, ("backend", "opencl", "'torch'")),
        ({"backend": "triton"}, RuntimeError, ("triton",)),
        ({"channel_dim": 0}, ValueError, ("channel_dim", "0")),
        ({"channel_dim": 1.0}, TypeError, ("channel_dim", "float")),
    ],
)
def test_bad_options(options, error, words, training):
    # float64, which no kernel of Triton takes, on a GPU either
    with refuses(error, *words):
        dropcov(X.double(), WEIGHT, training=training, **options)


def test_bad_features_and_mode():
    with refuses(TypeError, "x", "int64"):
        dropcov(X.long(), WEIGHT, training=True)
    with refuses(ValueError, "(2, 4)"):
        dropcov(X[:, :, 0, 0], WEIGHT, training=True)
    with refuses(ValueError, "2 channels", "(2, 1, 3, 3)"):
        dropcov(X[:, :1], WEIGHT, training=True)
    for training in (None, 1, "train"):
        with refuses(TypeError, "training", repr(training)):
            dropcov(X, WEIGHT, training=training)


@pytest.mark.parametrize("shape", [(2, 64, 5, 5), (2, 64, 25), (2, 64, 3, 4, 5)])
def test_layer_is_reduction_and_function(shape):
    pool, x = DropCov(64, dim=32), torch.randn(shape)
    with torch.no_grad():
        reduced = pool.conv_dr_block(x.flatten(2).unsqueeze(-1))
    torch.manual_seed(1)
    trained = pool(x)
    torch.manual_seed(1)
    torch.testing.assert_close(trained, dropcov(reduced, pool.eca_layer.conv.weight, training=True))
    assert trained.shape == (2, 528)

    pool.eval()
    reduced = pool.conv_dr_block(x.flatten(2).unsqueeze(-1))
    torch.testing.assert_close(pool(x), covariance_pool(reduced, output="triu"))
    assert torch.equal(pool(x), pool(x))


def test_tokens_give_what_the_same_feature_map_gives():
    pool, tokens = DropCov(12, dim=6), DropCov(12, dim=6, channel_dim=-1)
    tokens.load_state_dict(pool.state_dict())
    x = torch.randn(2, 12, 4, 4)
    for mode in (True, False):
        results = []
        for layer, given in ((pool.train(mode), x), (tokens.train(mode), x.flatten(2).mT)):
            torch.manual_seed(1)
            results.append(layer(given))
        torch.testing.assert_close(*results)


@pytest.mark.parametrize(
    ("dim", "output", "size", "shape"),
    [
        (6, "triu", 21, (3, 21)),
        (6, "full", 36, (3, 6, 6)),
        (None, "triu", 78, (3, 78)),
        (None, "full", 144, (3, 12, 12)),
    ],
)
def test_out_features_is_the_size_of_one_pooled_sample(dim, output, size, shape):
    pool = DropCov(12, dim=dim, output=output)
    pooled = pool(torch.randn(3, 12, 4, 4))
    assert pool.out_features == size == pooled[0].numel()
    assert pooled.shape == shape


def test_a_training_step_changes_every_parameter():
    pool = DropCov(12, dim=6)
    before = {name: parameter.clone() for name, parameter in pool.named_parameters()}
    assert set(before) == {
        "conv_dr_block.0.weight",
        "conv_dr_block.1.weight",
        "conv_dr_block.1.bias",
        "eca_layer.conv.weight",
    }
    optimiser = torch.optim.SGD(pool.parameters(), lr=0.1)
    pool(torch.randn(4, 12, 5, 5)).square().sum().backward()
    optimiser.step()
    for name, parameter in pool.named_parameters():
        assert not torch.equal(parameter, before[name]), name


def test_without_reduction_the_gate_is_the_only_parameter():
    assert [name for name, _ in DropCov(12, dim=None, kernel_size=5).named_parameters()] == ["eca_layer.conv.weight"]
    assert DropCov(12, dim=None, kernel_size=5).eca_layer.conv.weight.shape == (1, 1, 5)


def test_published_checkpoint_loads_after_renaming():
    source = DropCov(8, dim=4)
    published = {
        key.replace("conv_dr_block.0", "layer_reduce").replace("conv_dr_block.1", "layer_reduce_bn"): value
        for key, value in source.state_dict().items()
    }
    assert "layer_reduce.weight" in published
    pool = DropCov(8, dim=4)
    pool.load_state_dict(rename_reduction_keys(published))
    assert torch.equal(pool.eca_layer.conv.weight, source.eca_layer.conv.weight)
    assert torch.equal(pool.conv_dr_block[0].weight, source.conv_dr_block[0].weight)
    # A network trained with iSQRT-COV has all but the gate, and nothing that DropCov does not know.
    missing, unexpected = pool.load_state_dict(GCP(8, dim=4).state_dict(), strict=False)
    assert missing == ["eca_layer.conv.weight"]
    assert not unexpected


def test_device_and_dtype_arguments_reach_the_parameters():
    pool = DropCov(4, dim=3, dtype=torch.float64)
    assert {parameter.dtype for parameter in pool.parameters()} == {torch.float64}
    assert pool(torch.randn(2, 4, 3, 3, dtype=torch.float64)).dtype == torch.float64
    meta = DropCov(4, dim=3, device="meta")
    assert all(parameter.is_meta for parameter in meta.parameters())
    half = DropCov(4, dim=3, dtype=torch.bfloat16)
    x = torch.randn(2, 4, 3, 3, dtype=torch.bfloat16, requires_grad=True)
    half(x).float().sum().backward()
    assert all(parameter.grad.isfinite().all() for parameter in half.parameters())


def test_reset_parameters_draws_new_weights_and_fresh_statistics():
    pool = DropCov(64, dim=32)
    gate, reduction = pool.eca_layer.conv.weight.clone(), pool.conv_dr_block[0].weight.clone()
    pool(torch.randn(4, 64, 3, 3))
    pool.reset_parameters()
    assert not torch.equal(gate, pool.eca_layer.conv.weight)
    assert not torch.equal(reduction, pool.conv_dr_block[0].weight)
    assert torch.equal(pool.conv_dr_block[1].running_mean, torch.zeros(32))


def test_repr_tells_the_shapes_and_what_is_not_default():
    assert "DropCov(\n  64, dim=32, kernel_size=3, out_features=528\n" in repr(DropCov(64, dim=32))
    text = repr(DropCov(64, dim=None, kernel_size=5, channel_dim=-1, precision="high"))
    assert "64, dim=None, kernel_size=5, out_features=2080, channel_dim=-1, precision='high'" in text


def test_options_are_passed_on():
    x = features(2, 5, 9)
    pool = DropCov(5, dim=None, output="full", backend="reference", dtype=torch.float64)
    for mode in (True, False):
        torch.manual_seed(2)
        found = pool.train(mode)(x)
        torch.manual_seed(2)
        weight = pool.eca_layer.conv.weight
        assert torch.equal(found, dropcov(x, weight, training=mode, output="full", backend="reference"))
    with pytest.raises(RuntimeError, match="triton"):
        DropCov(5, dim=None, backend="triton", dtype=torch.float64)(x)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"in_channels": 0}, ValueError, ("in_channels", "0")),
        ({"in_channels": 1, "dim": None}, ValueError, ("in_channels", "at least 2", "1")),
        ({"dim": 1}, ValueError, ("dim", "at least 2", "1")),
        ({"dim": 4.0}, TypeError, ("dim", "4.0")),
        ({"kernel_size": 4}, ValueError, ("kernel_size", "odd", "4")),
        ({"kernel_size": -1}, ValueError, ("kernel_size", "-1")),
        ({"channel_dim": 0}, ValueError, ("channel_dim", "batch")),
        ({"output": "vector"}, ValueError, ("output", "vector")),
        ({"precision": "exact"}, ValueError, ("precision", "exact")),
        ({"backend": "opencl"}, ValueError, ("backend", "opencl")),
    ],
)
def test_bad_construction(options, error, words):
    with refuses(error, *words):
        DropCov(**{"in_channels": 8, **options})


def test_wrong_number_of_channels():
    with refuses(ValueError, "8 channels", "got 4", "(2, 4, 3, 3)"):
        DropCov(8, dim=4)(X)


def test_benchmark_from_the_command_line(capsys):
    assert benchmark.main(["--quick", "--rounds", "2"]) == 0
    shown = capsys.readouterr().out
    for name in benchmark.POOLS:
        assert re.search(rf"    {name} +\d+\.\d\d ms   x\d", shown), name


@pytest.mark.parametrize("arguments", [["--rounds", "0"], ["--threads", "0"], ["--device", "meta"]])
def test_benchmark_refuses_bad_arguments(arguments, capsys):
    with pytest.raises(SystemExit) as ending:
        benchmark.main(arguments)
    assert ending.value.code == 2
    assert arguments[0] in capsys.readouterr().err


def test_benchmark_does_not_time_what_is_wrong(monkeypatch, capsys):
    def wrong(x, weight, mask):
        return 1.001 * benchmark.ours(x, weight, mask)

    monkeypatch.setitem(benchmark.POOLS, "wrong", wrong)
    assert benchmark.main(["--quick", "--rounds", "1"]) == 1
    assert re.search(r"wrong +not timed   failing: error 1e-03", capsys.readouterr().out)
