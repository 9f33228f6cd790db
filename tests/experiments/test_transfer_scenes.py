"""Scenes of digits: masks are exact, the same come from a seed, and what cannot be drawn is refused."""

import pytest
import torch

from experiments.datasets import Part
from experiments.transfer.scenes import STROKE, VISIBLE, Layout, boxes_of, draw_scenes

LAYOUT = Layout(size=64, digits=(4, 7), heights=(16, 40))
# Squares without a soft edge: every pixel of one has its brightness, but for rounding, and so tells whose it is.
SQUARES = Part(torch.ones(3, 1, 28, 28), torch.tensor([4, 7, 9]))


def test_the_mask_of_each_is_what_can_be_seen_of_it() -> None:
    hidden = 0
    for scene in draw_scenes(SQUARES, 30, LAYOUT, seed=1):
        assert scene.image.shape == (1, 64, 64)
        assert scene.image.dtype == torch.float32
        assert int(scene.masks.sum(0).max()) == 1
        image = scene.image[0].round(decimals=5)
        values = [image[mask].unique() for mask in scene.masks]
        assert all(len(value) == 1 for value in values)
        brightnesses = torch.cat(values)
        assert len(brightnesses.unique()) == len(scene.labels)
        for mask, brightness, box in zip(scene.masks, brightnesses, scene.boxes, strict=True):
            assert torch.equal(mask, image == brightness)
            rows, columns = mask.nonzero().unbind(1)
            assert box.tolist() == [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
            hidden += int((box[2] - box[0]) * (box[3] - box[1])) > int(mask.sum())
        assert set(scene.labels.tolist()) <= {4, 7, 9}
    assert hidden > 10


def test_half_of_each_stays_visible_however_many_cover_it() -> None:
    layout = Layout(size=40, digits=(12, 12), heights=(24, 24))
    for scene in draw_scenes(SQUARES, 20, layout, seed=2):
        assert 1 < len(scene.labels) <= 12
        assert all(mask.sum() >= VISIBLE * 24 * 24 for mask in scene.masks)
        assert int(scene.masks[-1].sum()) == 24 * 24


def test_a_digit_is_painted_as_it_is_and_nothing_else() -> None:
    digit = torch.zeros(1, 1, 28, 28)
    digit[0, 0, 4:24, 12:16] = torch.linspace(0.1, 1, 20).unsqueeze(1)
    (scene,) = draw_scenes(Part(digit, torch.tensor([1])), 1, Layout(28, (1, 1), (28, 28)), seed=0)
    seen = digit[0, 0] >= STROKE
    assert int(scene.masks.sum()) == int(seen.sum())
    painted, given = scene.image[0][scene.masks[0]], digit[0, 0][seen]
    ratio = painted / given
    torch.testing.assert_close(ratio, ratio[:1].expand_as(ratio))
    assert 0.6 <= float(ratio[0]) <= 1
    assert float(scene.image[0][~scene.masks[0]].max()) < 0.6
    assert torch.equal(scene.boxes, boxes_of(scene.masks))


def test_a_seed_gives_the_same_scenes_and_leaves_torchs_random_state_alone() -> None:
    state = torch.get_rng_state()
    first, again, other = (draw_scenes(SQUARES, 3, LAYOUT, seed) for seed in (5, 5, 6))
    assert torch.equal(state, torch.get_rng_state())
    assert all(
        torch.equal(a.image, b.image) and torch.equal(a.masks, b.masks) for a, b in zip(first, again, strict=True)
    )
    assert not torch.equal(first[0].image, other[0].image)
    # More of them begin with the same ones.
    assert torch.equal(draw_scenes(SQUARES, 4, LAYOUT, 5)[2].image, first[2].image)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((64, (0, 2), (8, 9)), "digits must be at least 1, got 0"),
        ((64, (3, 2), (8, 9)), "digits must be at least 3, got 2"),
        ((64, (1, 2), (9, 8)), "heights must be at least 9, got 8"),
        ((30, (1, 2), (8, 31)), "size must be at least 31, got 30"),
    ],
)
def test_what_cannot_be_drawn_is_refused(arguments: tuple[int, tuple[int, int], tuple[int, int]], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        Layout(*arguments)
