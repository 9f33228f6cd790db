"""LandscapeRecorder: the loss landscape every k steps of a training loop, without an effect on the training."""

from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, fields
from math import isnan, nan
from typing import Any

import torch
from torch import Tensor, nn

from ..validation import check_at_least, check_module, check_number
from .landscape import PUBLISHED_STEPS, Landscape, check_callable, checked_steps, listed, loss_landscape
from .state import modules_behind, preserved


@dataclass(frozen=True)
class LandscapeRecord:
    """The landscape that was found in the call number ``step`` of :meth:`LandscapeRecorder.step`, from 1."""

    step: int
    landscape: Landscape

    def row(self) -> dict[str, float]:
        """Return one row of a table: step, loss, gradient norm, the bands over d of the papers' figures, and beta.

        The ends of a band are NaN if one of its values is.
        """
        walk = self.landscape
        loss_min, loss_max = _band(walk.losses)
        distance_min, distance_max = _band(walk.distances)
        return {
            "step": self.step,
            "loss": walk.loss,
            "gradient_norm": walk.gradient_norm,
            "loss_min": loss_min,
            "loss_max": loss_max,
            "distance_min": distance_min,
            "distance_max": distance_max,
            "beta": walk.beta,
        }


class LandscapeRecorder:
    """Records :func:`gcp_kernels.analysis.loss_landscape` on the current batch, every ``every`` training steps.

    Call :meth:`step` once per training step, with its batch: before ``optimizer.step()`` to record with the weights
    that the step's gradient was taken at, after it with the weights of the next step. Training goes on as if nothing
    had been recorded, bit for bit: parameters, gradients, BatchNorm statistics and other buffers, training flags,
    random numbers and optimiser are left as they were.

    A record costs a forward and a backward pass of ``rest`` for every step size and one more, and one forward pass of
    ``stem``. In distributed training each process records its own batch; a ``rest`` that talks to other processes
    (SyncBatchNorm) must then be recorded in all of them.

    Args:
        stem: from the images to y; with ``rest`` from :func:`gcp_kernels.analysis.split`, or any callable.
        rest: from y to what ``loss_fn`` takes.
        loss_fn: (output of ``rest``, target) to a loss of one element.
        steps: step sizes; by default those published for ResNets, ``PUBLISHED_STEPS["resnet"]``.
        every: record in the calls number ``every``, 2 ``every``, ...; at least 1.
        model: the network behind ``stem`` and ``rest``, necessary where they are neither modules nor methods of them.

    Attributes:
        records: list of :class:`LandscapeRecord`.
        count: calls of :meth:`step` so far.

    Raises:
        TypeError: an argument has the wrong type; ``stem`` or ``rest`` is a function and ``model`` is not given.
        ValueError: ``every`` is below 1, or a step size zero or not finite.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gcp_kernels.analysis import LandscapeRecorder, split
        >>> from gcp_kernels.nn import GCP
        >>> model = nn.Sequential(nn.Conv2d(3, 8, 3), GCP(8, dim=None), nn.Linear(36, 2))
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> recorder = LandscapeRecorder(*split(model, after="0"), nn.functional.cross_entropy, every=2)
        >>> for _ in range(4):
        ...     images, target = torch.randn(4, 3, 8, 8), torch.randint(2, (4,))
        ...     optimizer.zero_grad()
        ...     nn.functional.cross_entropy(model(images), target).backward()
        ...     _ = recorder.step(images, target)
        ...     optimizer.step()
        >>> [row["step"] for row in recorder.rows()]
        [2, 4]
    """

    def __init__(
        self,
        stem: Callable[[Any], Tensor],
        rest: Callable[[Tensor], Any],
        loss_fn: Callable[[Any, Any], Tensor],
        steps: Iterable[float] = PUBLISHED_STEPS["resnet"],
        every: int = 100,
        *,
        model: nn.Module | None = None,
    ) -> None:
        for name, function in (("stem", stem), ("rest", rest), ("loss_fn", loss_fn)):
            check_callable(name, function)
        if model is not None:
            check_module("model", model)
        if model is None and not (modules_behind(stem) and modules_behind(rest)):
            raise TypeError(
                "stem and rest must be modules, or methods of modules, for what they change to be put back; of other "
                "callables give the network that they belong to as model"
            )
        check_at_least("every", every, 1)
        self.stem, self.rest, self.loss_fn = stem, rest, loss_fn
        self.steps, self.every = checked_steps(steps), every
        self.records: list[LandscapeRecord] = []
        self.count = 0
        self._modules = (*modules_behind(stem, rest, loss_fn), *(() if model is None else (model,)))

    def step(self, images: Any, target: Any) -> LandscapeRecord | None:
        """Count a training step, and record its landscape if its turn has come.

        Args:
            images: what ``stem`` takes.
            target: what ``loss_fn`` compares with.

        Returns:
            The new record, or ``None`` where none was due.

        Raises:
            TypeError, ValueError: from :func:`gcp_kernels.analysis.loss_landscape`.
        """
        self.count += 1
        if self.count % self.every:
            return None
        with preserved(*self._modules):
            with torch.no_grad():
                y = self.stem(images)
            landscape = loss_landscape(self.rest, y, target, self.loss_fn, self.steps)
        self.records.append(LandscapeRecord(self.count, landscape))
        return self.records[-1]

    def rows(self) -> list[dict[str, float]]:
        """Return the records as the rows of a table, for ``csv.DictWriter``; see :meth:`LandscapeRecord.row`."""
        return [record.row() for record in self.records]

    def state_dict(self) -> dict[str, Any]:
        """Return count and records as plain numbers and lists, for a checkpoint that ``torch.load`` reads as data."""
        return {
            "count": self.count,
            "every": self.every,
            "steps": list(self.steps),
            "records": [{"step": record.step, "landscape": asdict(record.landscape)} for record in self.records],
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from a :meth:`state_dict`.

        Raises:
            TypeError: it is no dictionary, or an entry has the wrong type.
            ValueError: it is no such state; it is of a recorder with another ``every`` or other ``steps``, whose
                records do not compare.
        """
        if not isinstance(state, dict):
            raise TypeError(f"state must be a dict, got {type(state).__name__}")
        if missing := [name for name in ("count", "every", "steps", "records") if name not in state]:
            raise ValueError(f"state must be what state_dict() returned, got one without {', '.join(missing)}")
        check_at_least("count", state["count"], 0)
        check_at_least("every", state["every"], 1)
        for name, saved, own in (
            ("every", state["every"], self.every),
            ("steps", checked_steps(state["steps"]), self.steps),
        ):
            if saved != own:
                raise ValueError(f"the state is of a recorder with {name}={saved}; this one has {own}")
        if not isinstance(state["records"], list):
            raise TypeError(f"records must be a list, got {type(state['records']).__name__}")
        self.records = [_record(saved, self.steps) for saved in state["records"]]
        self.count = state["count"]


def _band(values: tuple[float, ...]) -> tuple[float, float]:
    # min and max alone pass over a NaN that is not the first.
    return (nan, nan) if any(map(isnan, values)) else (min(values), max(values))


def _record(saved: Any, steps: tuple[float, ...]) -> LandscapeRecord:
    """Rebuild a record from what ``asdict`` made of it; raise unless it is complete."""
    names = {field.name for field in fields(Landscape)}
    complete = isinstance(saved, dict) and set(saved) == {"step", "landscape"}
    if not complete or not isinstance(saved["landscape"], dict) or set(saved["landscape"]) != names:
        raise ValueError(f"a record must have a step and a landscape with {', '.join(sorted(names))}, got {saved!r}")
    check_at_least("step", saved["step"], 1)
    values: dict[str, Any] = {}
    for name, value in saved["landscape"].items():
        if name not in ("steps", "losses", "distances"):
            check_number(name, value)
            values[name] = value
            continue
        values[name] = listed(name, value)
        for number in values[name]:
            check_number(f"every one of {name}", number)
        if len(values[name]) != len(steps):
            raise ValueError(f"{name} of a record must have {len(steps)} numbers, got {len(values[name])}")
    return LandscapeRecord(saved["step"], Landscape(**values))
