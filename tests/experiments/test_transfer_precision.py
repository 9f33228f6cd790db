"""Average precision of boxes and masks: cases whose figures follow by hand from COCO's definition."""

import pytest
import torch

from experiments.transfer import average_precision as module
from experiments.transfer.average_precision import average_precision
from experiments.transfer.scenes import Scene, boxes_of

SIZE = 20


def rectangle(left: int, top: int, right: int, bottom: int) -> torch.Tensor:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[top:bottom, left:right] = True
    return mask


def scene(labels: list[int], *masks: torch.Tensor) -> Scene:
    stacked = torch.stack(masks)
    return Scene(torch.zeros(1, SIZE, SIZE), boxes_of(stacked), torch.tensor(labels), stacked)


def found(labels: list[int], scores: list[float], *masks: torch.Tensor) -> dict[str, torch.Tensor]:
    stacked = torch.stack(masks) if masks else torch.zeros(0, SIZE, SIZE, dtype=torch.bool)
    boxes = boxes_of(stacked) if masks else torch.zeros(0, 4)
    return {
        "labels": torch.tensor(labels, dtype=torch.int64),
        "scores": torch.tensor(scores),
        "boxes": boxes,
        "masks": stacked,
    }


@pytest.mark.parametrize("compared", ["boxes", "masks"])
def test_the_figures_are_those_of_the_definition(compared: str) -> None:
    """Two of a class; by score: one exact, one false, one that overlaps by 0.64.

    Precision is 1 up to half of recall, where 51 of COCO's 101 levels are, and 2 / 3 beyond it, at overlaps of 0.5,
    0.55 and 0.6 of ten; at the others nothing is found beyond.
    """
    pytest.importorskip("pycocotools")
    scenes = [scene([3], rectangle(2, 3, 12, 8)), scene([3], rectangle(0, 0, 10, 10))]
    results = [
        found([3, 3], [0.9, 0.8], rectangle(2, 3, 12, 8), rectangle(15, 15, 18, 19)),
        found([3], [0.7], rectangle(0, 0, 8, 8)),
    ]
    low, high = 100 * (51 + 50 * 2 / 3) / 101, 100 * 51 / 101
    figures = average_precision(scenes, results, compared, classes=10)
    assert figures == pytest.approx({"AP": (3 * low + 7 * high) / 10, "AP50": low, "AP75": high})

    # A class that is in no scene does not count, nor what is found of it; one that is there and not found does.
    others = [*scenes, scene([5], rectangle(1, 1, 3, 3))]
    results = [*results, found([7], [0.9], rectangle(1, 1, 3, 3))]
    halves = average_precision(others, results, compared, classes=10)
    assert halves == pytest.approx({name: value / 2 for name, value in figures.items()})

    nothing = found([], [])
    assert average_precision(scenes, [nothing, nothing], compared, 10) == {"AP": 0, "AP50": 0, "AP75": 0}
    assert average_precision(scenes, [nothing, results[1]], compared, 10)["AP75"] == 0


def test_boxes_and_masks_are_told_apart() -> None:
    pytest.importorskip("pycocotools")
    ring = rectangle(0, 0, 12, 12) & ~rectangle(1, 1, 11, 11)
    result = [found([0], [0.5], rectangle(0, 0, 12, 12))]
    assert average_precision([scene([0], ring)], result, "boxes", 1)["AP"] == pytest.approx(100)
    assert average_precision([scene([0], ring)], result, "masks", 1)["AP"] == 0
    with pytest.raises(ValueError, match="compared must be one of 'boxes', 'masks', got 'points'"):
        average_precision([scene([0], ring)], result, "points", 1)


def test_without_pycocotools_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(module.importlib, "import_module", missing)
    with pytest.raises(ImportError, match=r"needs pycocotools, .* pip install .*transfer"):
        module.pycocotools("coco")
