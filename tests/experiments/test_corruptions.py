"""The corruptions: known answers, determinism, range, and damage that grows with the strength."""

import pytest
import torch

from experiments.reproduction import corruptions
from experiments.reproduction.corruptions import FUNCTIONS, OF_DATA, STRENGTHS, UNITS, amounts, corrupted

# Every corruption, and a data set that has it.
DATA = {name: data for data in OF_DATA for name in amounts(data)}
NAMES = tuple(FUNCTIONS)


@pytest.fixture
def images():
    # Neighbouring pixels are alike, as in any picture; in white noise half a pixel away is as far as three.
    return FUNCTIONS["blur"](torch.rand(64, 1, 8, 8).round(), 1.0, None)


def generator():
    return torch.Generator().manual_seed(1)


@pytest.mark.parametrize("name", NAMES)
def test_strength_zero_changes_nothing(name, images):
    assert torch.equal(FUNCTIONS[name](images, 0.0, generator()), images)


@pytest.mark.parametrize(("data", "name"), [(data, name) for data in OF_DATA for name in amounts(data)])
def test_five_growing_amounts_do_growing_damage(data, name):
    of_data = amounts(data)[name]
    assert len(of_data) == len(STRENGTHS) == 5
    assert all(low < high for low, high in zip((0.0, *of_data[:-1]), of_data, strict=True))
    # Of the size of a letter's strokes.
    size = {"digits": 8, "mnist": 28, "typefaces": 64}[data]
    images = FUNCTIONS["blur"](torch.rand(64, 1, size, size).round(), 2.0 if data == "mnist" else 1.0, None)
    damage = [(corrupted(images, data, name, strength) - images).square().mean().item() for strength in STRENGTHS]
    assert damage == sorted(damage)
    assert damage[-1] > 2 * damage[0] > 0


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_range_dtype_and_input_are_kept(name, dtype, images):
    images = images.to(dtype)
    before = images.clone()
    result = corrupted(images, DATA[name], name, 5)
    assert result.dtype == dtype
    assert result.shape == images.shape
    assert 0 <= result.min() <= result.max() <= 1
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", NAMES)
def test_equal_seeds_give_equal_images_whatever_the_global_state(name, images):
    torch.manual_seed(0)
    first = corrupted(images, DATA[name], name, 3, seed=5)
    torch.manual_seed(1)
    before = torch.get_rng_state()
    assert torch.equal(corrupted(images, DATA[name], name, 3, seed=5), first)
    assert torch.equal(torch.get_rng_state(), before)
    random = name in ("noise", "shift")
    assert torch.equal(corrupted(images, DATA[name], name, 3, seed=6), first) != random


def test_the_same_noise_and_direction_at_every_strength():
    grey = torch.full((64, 1, 8, 8), 0.5)
    weak, strong = ((corrupted(grey, "digits", "noise", strength) - 0.5).sign() for strength in (1, 5))
    assert torch.equal(weak, strong)
    dot = torch.zeros(64, 1, 9, 9)
    dot[..., 4, 4] = 1
    near, far = (FUNCTIONS["shift"](dot, pixels, generator()) for pixels in (1.0, 2.0))
    for one, other in zip(near, far, strict=True):
        assert torch.equal(2 * (one[0].nonzero() - 4), other[0].nonzero() - 4)


def test_noise_has_the_deviation_that_is_asked_for():
    grey = torch.full((1000, 1, 8, 8), 0.5)
    difference = FUNCTIONS["noise"](grey, 0.05, generator()) - 0.5
    # Of 64,000 normal numbers; five standard errors.
    assert difference.std().item() == pytest.approx(0.05, rel=5 / (2 * 64_000) ** 0.5)
    assert abs(difference.mean().item()) < 5 * 0.05 / 64_000**0.5


def test_blur_keeps_a_constant_and_spreads_a_point_as_a_gaussian():
    grey = torch.full((2, 1, 8, 8), 0.3, dtype=torch.float64)
    torch.testing.assert_close(FUNCTIONS["blur"](grey, 1.3, None), grey)
    point = torch.zeros(1, 1, 9, 9, dtype=torch.float64)
    point[..., 4, 4] = 1
    spread = FUNCTIONS["blur"](point, 0.8, None)[0, 0]
    assert spread.sum().item() == pytest.approx(1)
    assert (spread[4, 5] / spread[4, 4]).item() == pytest.approx(torch.exp(torch.tensor(-0.5 / 0.64)).item())
    assert (spread[5, 5] / spread[4, 4]).item() == pytest.approx(torch.exp(torch.tensor(-1.0 / 0.64)).item())
    assert torch.equal(spread, spread.T)


def test_contrast_keeps_the_mean_and_scales_the_deviation(images):
    images = images.double()
    result = FUNCTIONS["contrast"](images, 0.7, None)
    torch.testing.assert_close(result.mean((1, 2, 3)), images.mean((1, 2, 3)))
    torch.testing.assert_close(result.std((1, 2, 3)), 0.3 * images.std((1, 2, 3)))


def test_a_shift_moves_a_pixel_and_lets_black_in():
    dot = torch.zeros(40, 1, 8, 8)
    dot[..., 3, 4] = 1
    seen = set()
    for image in FUNCTIONS["shift"](dot, 2.0, generator()):
        ((row, column),) = image[0].nonzero().tolist()
        assert image[0, row, column] == 1
        seen.add((row - 3, column - 4))
    assert seen == {(-2, 0), (2, 0), (0, -2), (0, 2)}
    white = FUNCTIONS["shift"](torch.ones(40, 1, 8, 8), 3.0, generator())
    assert torch.equal(white.sum((1, 2, 3)), torch.full((40,), 8 * 5.0))
    assert FUNCTIONS["shift"](torch.ones(4, 1, 8, 8), 8.0, generator()).sum() == 0
    assert FUNCTIONS["shift"](torch.ones(4, 1, 8, 8), 11.5, generator()).sum() == 0


def test_half_a_pixel_is_half_in_each():
    dot = torch.zeros(8, 1, 8, 8)
    dot[..., 3, 4] = 1
    for image in FUNCTIONS["shift"](dot, 0.5, generator()):
        assert image[0, 3, 4] == 0.5
        assert image.sum() == 1
        assert image.count_nonzero() == 2


@pytest.mark.parametrize(
    ("name", "strength", "error", "message"),
    [
        ("fog", 1, ValueError, "name must be one of 'noise', 'blur', 'contrast', 'shift', got 'fog'"),
        ("noise", 0, ValueError, "strength must be at least 1, got 0"),
        ("noise", 6, ValueError, "strength must be one of 1, 2, 3, 4, 5, got 6"),
        ("noise", 1.0, TypeError, "strength must be an int"),
    ],
)
def test_what_is_none_is_refused(name, strength, error, message, images):
    with pytest.raises(error, match=message):
        corruptions.corrupted(images, "digits", name, strength)


def test_every_corruption_is_somewhere_and_has_a_unit():
    assert set(DATA) == set(FUNCTIONS) == set(UNITS)
    assert amounts("a/folder") == amounts("mnist")


def test_brightness_is_added_and_cut_off():
    images = torch.tensor([0.0, 0.25, 0.75]).reshape(3, 1, 1, 1)
    assert FUNCTIONS["brightness"](images, 0.5, None).flatten().tolist() == [0.5, 0.75, 1.0]


def test_each_channel_is_blurred_by_itself():
    images = torch.rand(3, 2, 8, 8, dtype=torch.float64)
    alone = [FUNCTIONS["blur"](images[:, channel : channel + 1], 1.3, None) for channel in (0, 1)]
    torch.testing.assert_close(FUNCTIONS["blur"](images, 1.3, None), torch.cat(alone, 1))
