"""split: the halves are the model, at the cost of a half each, and what cannot be cut is refused with the reason."""

import copy
import random

import numpy
import pytest
import torch
from torch import nn
from torch.nn import functional

from gcp_kernels.analysis import split
from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn import GCP, DropCov
from tests.support.small_models import CASES

# Where the forward of each class passes a single tensor on.
CUTS = {
    "torchvision-resnet": ("conv1", "maxpool", "layer1", "layer2.0"),
    "torchvision-mobilenet_v2": ("features.0", "features.1.conv"),
    "torchvision-shufflenet_v2": ("conv1", "maxpool"),
    "torchvision-vit": ("encoder.layers.encoder_layer_0",),
    "torchvision-swin": ("features.0", "features.1.0"),
    "timm-resnet": ("maxpool", "layer1"),
    "timm-mobilenet_v2": ("conv_stem", "bn1", "blocks.0"),
    "timm-vit": ("patch_embed", "blocks.0"),
    "timm-deit": ("blocks",),
    "timm-swin": ("patch_embed", "layers.0"),
}


def two_branches() -> nn.Module:
    class Residual(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x):
            y = self.first(x)
            return self.second(y) + x

    return Residual()


def with_forward(forward) -> nn.Module:
    class Written(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    Written.forward = forward
    return Written()


def calls_during(model, call):
    """Names of the modules without children that run during ``call``."""
    called = []
    hooks = [
        module.register_forward_hook(lambda *_, name=name: called.append(name))
        for name, module in model.named_modules()
        if not list(module.children())
    ]
    try:
        call()
    finally:
        for hook in hooks:
            hook.remove()
    return called


@pytest.mark.parametrize("case", CUTS)
@pytest.mark.parametrize("converted", [False, True], ids=["own-pool", "gcp"])
def test_library_models(case, converted):
    model = CASES[case].build()
    if converted:
        model = replace_pool(model, num_classes=5, dim=8)
    images = torch.randn(2, 3, CASES[case].image, CASES[case].image)
    for after in CUTS[case]:
        stem, rest = split(model, after)
        for training in (True, False):
            assert_halves(model.train(training), stem, rest, images)


def assert_halves(model, stem, rest, images):
    """Both halves together are the model, in value and in what they do to buffers, and run its modules once."""
    twin, outputs = copy.deepcopy(model), []
    torch.manual_seed(1)
    in_order = calls_during(twin, lambda: outputs.append(twin(images)))
    torch.manual_seed(1)
    in_stem = calls_during(model, lambda: outputs.append(stem(images)))
    in_rest = calls_during(model, lambda: outputs.append(rest(outputs[1])))
    assert torch.equal(outputs[2], outputs[0])
    for (name, buffer), other in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(buffer, other), name
    assert [*in_stem, *in_rest] == in_order
    assert in_stem
    assert in_rest


@pytest.mark.parametrize("after", ["0", "1", "1.0", "1.2.0", "1.2", "2"])
def test_nested_sequential_in_value_and_gradient(after):
    block = nn.Sequential(nn.Conv2d(3, 6, 3), nn.BatchNorm2d(6), nn.Sequential(nn.ReLU(inplace=True), nn.Dropout(0.5)))
    model = nn.Sequential(nn.Conv2d(3, 3, 3), block, DropCov(6, dim=4), nn.Linear(10, 2)).double()
    twin = copy.deepcopy(model)
    images = torch.randn(4, 3, 9, 9, dtype=torch.float64)
    stem, rest = split(model, after)
    for network, call in ((model, lambda: rest(stem(images))), (twin, lambda: twin(images))):
        torch.manual_seed(3)
        call().square().sum().backward()
        assert all(parameter.grad is not None for parameter in network.parameters())
    for parameter, other in zip(model.parameters(), twin.parameters(), strict=True):
        assert torch.equal(parameter.grad, other.grad)


def test_the_module_itself_names_the_cut():
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 1))
    x = torch.randn(2, 4)
    assert torch.equal(split(model, model[1][0])[0](x), model[1][0](model[0](x)))


def test_halves_share_parameters_and_follow_the_model():
    model = nn.Sequential(nn.Linear(4, 4), nn.Dropout(0.5), nn.Linear(4, 1))
    stem, rest = split(model, "0")
    assert {id(p) for p in (*stem.parameters(), *rest.parameters())} == {id(p) for p in model.parameters()}
    x = torch.randn(2, 4)
    model.eval()
    with torch.no_grad():
        model[2].weight.fill_(2)
    assert torch.equal(rest(stem(x)), model(x))
    model[2] = nn.Linear(4, 3)
    assert rest(stem(x)).shape == (2, 3)
    copied = copy.deepcopy(rest)
    with torch.no_grad():
        model[2].weight.fill_(0)
    assert not torch.equal(copied(x), rest(x))


def test_functional_dropout_follows_the_mode():
    def forward(self, x):
        return self.second(functional.dropout(self.first(x), 0.5, training=self.training))

    model = with_forward(forward)
    stem, rest = split(model, "first")
    y = stem(torch.randn(64, 4))
    assert not torch.equal(rest(y), rest(y))
    model.eval()
    assert torch.equal(rest(y), model.second(y))


def test_modules_that_cannot_be_traced_are_not_looked_into():
    class Undecided(nn.Module):
        def forward(self, x):
            return x if x.sum() > 0 else -x

    model = nn.Sequential(Undecided(), nn.Linear(4, 4), Undecided(), GCP(4, dim=None, channel_dim=-1))
    x = torch.randn(2, 5, 4)
    stem, rest = split(model, "1")
    assert torch.equal(rest(stem(x)), model(x))


def test_in_place_operations_of_the_forward_are_done():
    def forward(self, x):
        y = self.first(x)
        y.mul_(3)  # the result is not used
        return self.second(y)

    model = with_forward(forward)
    stem, rest = split(model, "first")
    x = torch.randn(2, 4)
    assert torch.equal(rest(stem(x)), model(x))


def test_further_arguments_have_their_defaults():
    def forward(self, x, scale=None):
        return self.second(self.first(x) if scale is None else self.first(x) * scale)

    model = with_forward(forward)
    stem, rest = split(model, "first")
    x = torch.randn(2, 4)
    assert torch.equal(rest(stem(x)), model(x))


def test_parameters_read_before_the_cut_are_known_behind_it():
    def forward(self, x):
        weight = self.second.weight.t()
        return self.first(x) @ weight

    model = with_forward(forward)
    stem, rest = split(model, "first")
    x = torch.randn(2, 4)
    assert torch.equal(rest(stem(x)), model(x))


@pytest.mark.parametrize("after", ["", "fourth", "0.weight"])
def test_unknown_names(after):
    model = nn.Sequential(nn.Linear(4, 4), nn.Sequential(nn.ReLU()))
    with pytest.raises(ValueError, match=r"'0', '1', '1.0'; got '" + after):
        split(model, after)
    with pytest.raises(ValueError, match="inside the model, not the model itself"):
        split(model, model)
    with pytest.raises(ValueError, match="got a Linear"):
        split(model, nn.Linear(4, 4))


def test_wrong_types():
    with pytest.raises(TypeError, match=r"model must be a torch.nn.Module, got function"):
        split(two_branches, "first")
    with pytest.raises(TypeError, match="after must be a module or its name, got 0"):
        split(nn.Sequential(nn.ReLU()), 0)


def test_a_shortcut_around_the_cut_is_refused():
    with pytest.raises(
        ValueError, match=r"behind 'first' also needs what was computed before: the model's input; .* two callables"
    ):
        split(two_branches(), "first")
    with pytest.raises(ValueError, match="does not use its output"):
        split(with_forward(lambda self, x: (self.first(x), self.second.weight)[1]), "first")
    sizes = CASES["torchvision-vit"].build()
    with pytest.raises(ValueError, match="also needs what was computed before"):
        split(sizes, "conv_proj")


def test_modules_called_otherwise_than_once_are_refused():
    shared = nn.Linear(4, 4)
    with pytest.raises(ValueError, match="'0' is called 2 times"):
        split(nn.Sequential(shared, nn.ReLU(), shared), "2")
    with pytest.raises(ValueError, match="'second' is called never"):
        split(with_forward(lambda self, x: self.first(x)), "second")


def test_a_forward_that_depends_on_values_is_refused():
    def forward(self, x):
        return self.second(self.first(x)) if x.sum() > 0 else x

    with pytest.raises(ValueError, match="contains 'first' cannot be traced"):
        split(with_forward(forward), "first")


def test_what_goes_around_the_cut_is_named_as_the_user_knows_it():
    def forward(self, x):
        return x + self.second(self.first(x).relu())  # the sum is behind the cut

    with pytest.raises(ValueError, match="computed before: the model's input; cut where"):
        split(with_forward(forward), "second")

    def gated(self, x):
        return self.second(x) * self.first(x).sigmoid() + self.first.weight

    with pytest.raises(ValueError, match="computed before: 'second'; cut where"):
        split(with_forward(gated), "first")


def with_buffers(forward):
    model = with_forward(forward)
    model.register_buffer("temperature", torch.ones(()))
    model.register_buffer("calls", torch.zeros(()))
    return model


def test_buffers_are_read_and_changed_when_the_halves_run():
    def forward(self, x):
        self.calls.add_(1)
        return self.second(self.first(x) * (self.temperature * 2)) + self.calls

    model, x = with_buffers(forward), torch.randn(2, 4)
    stem, rest = split(model, "first")
    assert model.calls == 0
    model.temperature.fill_(5)
    for call in (1, 2):
        twin = copy.deepcopy(model)
        assert torch.equal(rest(stem(x)), twin(x))
        assert model.calls == twin.calls == call


def test_a_change_of_a_buffer_before_the_cut_is_not_made_twice():
    def forward(self, x):
        calls = self.calls.add_(1)
        return self.second(self.first(x)) + calls

    model = with_buffers(forward)
    with pytest.raises(ValueError, match="behind 'first' also needs the result of a change made before, add_"):
        split(model, "first")
    assert model.calls == 0


def state_of_numpy():
    return [part.tolist() if isinstance(part, numpy.ndarray) else part for part in numpy.random.get_state()]


@pytest.mark.parametrize(
    ("draw", "state"),
    [
        (lambda: torch.randn(4), lambda: torch.get_rng_state().tolist()),
        (random.random, random.getstate),
        (numpy.random.rand, state_of_numpy),
    ],
    ids=["torch", "python", "numpy"],
)
def test_a_forward_that_draws_random_numbers_is_refused(draw, state):
    def forward(self, x):
        return self.second(self.first(x) + draw())

    model, before = with_forward(forward), state()
    with pytest.raises(ValueError, match="draws random numbers"):
        split(model, "first")
    assert state() == before


def test_a_forward_that_draws_and_cannot_be_traced_leaves_the_generators():
    def forward(self, x):
        return self.second(self.first(x)) if x.sum() > random.random() else x

    before = random.getstate()
    with pytest.raises(ValueError, match="cannot be traced"):
        split(with_forward(forward), "first")
    assert random.getstate() == before


def test_a_cut_inside_a_layer_of_ours_is_one_like_any_other():
    pool = GCP(4, dim=2).eval()
    for model, name in ((nn.Sequential(nn.Conv2d(3, 4, 1), pool).eval(), "1.conv_dr_block"), (pool, "conv_dr_block")):
        stem, rest = split(model, name)
        images = torch.randn(2, 4 if model is pool else 3, 5, 5)
        assert stem(images).shape == (2, 2, 5, 5)
        torch.testing.assert_close(rest(stem(images)), model(images))
