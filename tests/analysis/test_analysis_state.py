"""preserved and LandscapeRecorder: bit for bit, training does not notice."""

import copy
import math
import random

import numpy
import pytest
import torch
from torch import nn

from gcp_kernels.analysis import Landscape, LandscapeRecord, LandscapeRecorder, preserved, split
from gcp_kernels.nn import GCP, DropCov

cross_entropy = nn.functional.cross_entropy


class Noise(nn.Module):
    """Draws from every global generator, and rebinds a buffer and makes a new one as some layers do."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(2))
        self.register_buffer("nothing", None)

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean().detach()
        self.register_buffer("calls", torch.ones(()), persistent=False)
        return x + 1e-3 * (random.random() + numpy.random.rand()) * torch.rand_like(x)


def network(device="cpu"):
    block = nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.Dropout(0.3))
    spectral = nn.utils.parametrizations.spectral_norm(nn.Linear(21, 12))
    return nn.Sequential(block, Noise(), DropCov(8, dim=6), spectral, nn.BatchNorm1d(12), nn.Linear(12, 4)).to(device)


def seed():
    torch.manual_seed(5)
    random.seed(5)
    numpy.random.seed(5)


def next_numbers(device):
    return (torch.rand(3).tolist(), torch.rand(3, device=device).tolist(), random.random(), numpy.random.rand())


def assert_same(one, other):
    """Equal bit for bit, whatever is nested in it."""
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other)
    elif isinstance(one, dict):
        assert list(one) == list(other)
        for key in one:
            assert_same(one[key], other[key])
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other)
        for a, b in zip(one, other, strict=True):
            assert_same(a, b)
    else:
        assert one == other


def everything(model, optimizer, device):
    flags = [module.training for module in model.modules()]
    gradients = [None if p.grad is None else p.grad.clone() for p in model.parameters()]
    buffers = dict(model.named_buffers())
    return [model.state_dict(), buffers, optimizer.state_dict(), flags, gradients, next_numbers(device)]


def train(device, record, when="before", steps=5):
    """Train some steps, with a recorder or without; return all that a recorder could have changed."""
    seed()
    model = network(device)
    model[0][1].eval()  # a frozen layer stays frozen
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, weight_decay=1e-3)
    recorder = LandscapeRecorder(*split(model, "0"), cross_entropy, steps=(0.1, 1.0, 5.0), every=2)
    losses = []
    for _ in range(steps):
        images, target = torch.randn(6, 3, 8, 8, device=device), torch.randint(4, (6,), device=device)
        optimizer.zero_grad()
        loss = cross_entropy(model(images), target)
        if record and when == "between":
            recorder.step(images, target)
        loss.backward()
        if record and when == "before":
            recorder.step(images, target)
        optimizer.step()
        if record and when == "after":
            recorder.step(images, target)
        losses.append(loss.item())
    return recorder, [losses, everything(model, optimizer, device)]


@pytest.fixture
def reproducible_convolutions(monkeypatch):
    """On a GPU two runs of the same training would differ by themselves."""
    monkeypatch.setattr(torch.backends.cudnn, "deterministic", True)


@pytest.mark.parametrize("when", ["between", "before", "after"])
@pytest.mark.usefixtures("reproducible_convolutions")
def test_training_does_not_notice_the_recorder(device, when):
    _, without = train(device, record=False)
    recorder, recorded = train(device, record=True, when=when)
    assert_same(recorded, without)
    assert [record.step for record in recorder.records] == [2, 4]
    assert all(len(record.landscape.losses) == 3 for record in recorder.records)


@pytest.mark.usefixtures("reproducible_convolutions")
def test_training_does_not_notice_the_recorder_of_a_covariance_network(device):
    def trained(record):
        seed()
        model = nn.Sequential(nn.Conv2d(3, 64, 3), nn.BatchNorm2d(64), GCP(64, dim=32), nn.Linear(528, 4)).to(device)
        optimizer = torch.optim.AdamW(model.parameters())
        recorder = LandscapeRecorder(*split(model, "1"), cross_entropy, every=1)
        for _ in range(3):
            images, target = torch.randn(8, 3, 16, 16, device=device), torch.randint(4, (8,), device=device)
            optimizer.zero_grad()
            cross_entropy(model(images), target).backward()
            if record:
                recorder.step(images, target)
            optimizer.step()
        return everything(model, optimizer, device)

    assert_same(trained(True), trained(False))


def test_every_thing_is_put_back_after_an_exception(device):
    seed()
    model = network(device)
    model[0][3].eval()
    model(torch.randn(6, 3, 8, 8, device=device)).sum().backward()
    model[5].bias.grad = None
    gradients = [parameter.grad for parameter in model.parameters()]
    buffers = list(model.named_buffers())
    before = copy.deepcopy([model.state_dict(), dict(buffers), [m.training for m in model.modules()], gradients])
    random_states = torch.get_rng_state(), random.getstate(), numpy.random.get_state()

    def disturb():
        with preserved(model):
            model.train()
            model(torch.randn(6, 3, 8, 8, device=device)).square().sum().backward()
            assert all(parameter.grad is not None for parameter in model.parameters())
            model.eval()
            raise KeyError("in the middle")

    with pytest.raises(KeyError, match="in the middle"):
        disturb()
    after = [model.state_dict(), dict(model.named_buffers()), [m.training for m in model.modules()], gradients]
    assert_same(after, before)
    assert all(p.grad is gradient for p, gradient in zip(model.parameters(), gradients, strict=True))
    assert all(a is b for (_, a), (_, b) in zip(model.named_buffers(), buffers, strict=True))
    assert torch.equal(torch.get_rng_state(), random_states[0])
    assert random.getstate() == random_states[1]
    assert numpy.array_equal(numpy.random.get_state()[1], random_states[2][1])


def test_a_snapshot_restores_in_between():
    model = network()
    images = torch.randn(6, 3, 8, 8)
    with preserved(model) as snapshot:
        first = model(images)
        snapshot.restore()
        assert torch.equal(model(images), first)
        assert not torch.equal(model(images), first)


def test_preserved_takes_modules_only():
    with pytest.raises(TypeError, match=r"modules must be a torch.nn.Module, got function"), preserved(network):
        pass


def test_rows_are_the_bands_over_the_steps():
    recorder, _ = train("cpu", record=True)
    walk = recorder.records[1].landscape
    row = recorder.rows()[1]
    assert row == {
        "step": 4,
        "loss": walk.loss,
        "gradient_norm": walk.gradient_norm,
        "loss_min": min(walk.losses),
        "loss_max": max(walk.losses),
        "distance_min": min(walk.distances),
        "distance_max": max(walk.distances),
        "beta": walk.beta,
    }
    assert row["loss_min"] < row["loss_max"]


def test_a_band_with_a_value_that_is_no_number_has_no_ends():
    nan = float("nan")
    row = LandscapeRecord(1, Landscape((1.0, 2.0), (0.7, nan), (0.5, 0.1), 1.0, 1.0, nan)).row()
    assert math.isnan(row["loss_min"])
    assert math.isnan(row["loss_max"])
    assert (row["distance_min"], row["distance_max"]) == (0.1, 0.5)


def test_a_resumed_recorder_goes_on(tmp_path):
    whole, _ = train("cpu", record=True, steps=5)
    seed()
    model = network()
    halves = split(model, "0")

    def recorder():
        return LandscapeRecorder(*halves, cross_entropy, steps=(0.1, 1.0, 5.0), every=2)

    first = recorder()
    images, target = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    for _ in range(3):
        first.step(images, target)
    torch.save(first.state_dict(), tmp_path / "recorder.pt")
    resumed = recorder()
    resumed.load_state_dict(torch.load(tmp_path / "recorder.pt", weights_only=True))
    assert resumed.records == first.records
    assert resumed.step(images, target).step == 4
    assert resumed.step(images, target) is None
    assert [row["step"] for row in resumed.rows()] == [row["step"] for row in whole.rows()]
    assert first.count == 3


def test_the_state_of_another_recorder_is_refused():
    halves = split(network(), "0")
    state = LandscapeRecorder(*halves, cross_entropy, every=2).state_dict()
    with pytest.raises(ValueError, match="recorder with every=2; this one has 3"):
        LandscapeRecorder(*halves, cross_entropy, every=3).load_state_dict(state)
    with pytest.raises(ValueError, match="recorder with steps="):
        LandscapeRecorder(*halves, cross_entropy, steps=(1.0,), every=2).load_state_dict(state)


@pytest.mark.parametrize(
    ("state", "error", "message"),
    [({"every": 2, "count": 1}, ValueError, "got one without steps, records"), (None, TypeError, "got NoneType")],
)
def test_what_is_no_state_of_a_recorder_is_refused(state, error, message):
    with pytest.raises(error, match=message):
        LandscapeRecorder(*split(network(), "0"), cross_entropy).load_state_dict(state)


def test_functions_need_the_model_that_they_belong_to():
    model = network()

    def stem(images):
        return model[0](images)

    def rest(y):
        return model[1:](y)

    with pytest.raises(TypeError, match="give the network that they belong to as model"):
        LandscapeRecorder(stem, rest, cross_entropy)
    recorder = LandscapeRecorder(stem, rest, cross_entropy, steps=(1.0,), every=1, model=model)
    before = copy.deepcopy(model.state_dict())
    recorder.step(torch.randn(6, 3, 8, 8), torch.arange(6) % 4)
    assert_same(dict(model.state_dict()), dict(before))
    LandscapeRecorder(model[0].forward, model[1:].forward, cross_entropy)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"stem": 1}, TypeError, "stem must be callable, got int"),
        ({"loss_fn": None}, TypeError, "loss_fn must be callable, got NoneType"),
        ({"every": 0}, ValueError, "every must be at least 1, got 0"),
        ({"every": 2.0}, TypeError, "every must be an int"),
        ({"steps": (0,)}, ValueError, "finite and not zero, got 0"),
        ({"model": "net"}, TypeError, r"model must be a torch.nn.Module, got str"),
    ],
)
def test_bad_input(change, error, message):
    stem, rest = split(network(), "0")
    with pytest.raises(error, match=message):
        LandscapeRecorder(**{"stem": stem, "rest": rest, "loss_fn": cross_entropy, **change})
