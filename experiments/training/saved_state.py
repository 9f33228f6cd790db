"""Whether the saved state of a run has the form of the run's own, before any of it is put into its place."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor

from gcp_kernels.checkpoint_file import CheckpointError
from gcp_kernels.listing import listed

from .run_folder import LOG_COLUMNS

# An error shows so many differences; one of another network has hundreds.
SHOWN = 3


def check_saved_state(saved: Mapping[str, Any], own: Mapping[str, Any], parameters: Sequence[Tensor]) -> None:
    """Raise :class:`CheckpointError` unless ``saved`` has the form of ``own``, of the same run before its first step.

    Dictionaries and lists must have the same entries, tensors the same shapes and dtypes, and all else the same types.
    Three things grow: the history by a row for each epoch, the optimiser by a buffer for each of the ``parameters``
    where it has momentum, and the recorder by records, which it checks itself.
    """
    history, recorder = saved.get("history"), saved.get("recorder")
    row = {name: 1 if name == "epoch" else 1.0 for name in LOG_COLUMNS}
    has_momentum = any(group["momentum"] for group in own["optimizer"]["param_groups"])
    buffers = {number: {"momentum_buffer": parameter} for number, parameter in enumerate(parameters)}
    expected = {
        **own,
        "history": [row] * (len(history) if isinstance(history, list) else 0),
        "optimizer": {**own["optimizer"], "state": buffers if has_momentum else {}},
        "recorder": recorder if own["recorder"] is not None and isinstance(recorder, dict) else own["recorder"],
    }
    if found := listed(misfits(saved, expected, ""), SHOWN, separator="; "):
        raise CheckpointError(found)


def misfits(saved: object, own: object, name: str) -> Iterator[str]:
    """Yield where ``saved`` has another form than ``own``, each by its name and what it is."""
    if isinstance(own, Mapping) and isinstance(saved, Mapping):
        where = f"{name} " if name else "it "
        yield from (f"{where}lacks {key!r}" for key in own if key not in saved)
        yield from (f"{where}has {key!r}, of which this run knows nothing" for key in saved if key not in own)
        for key in own:
            if key in saved:
                yield from misfits(saved[key], own[key], f"{name}.{key}" if name else str(key))
    elif isinstance(own, list | tuple) and isinstance(saved, list | tuple) and len(saved) == len(own):
        for index, (one, other) in enumerate(zip(saved, own, strict=True)):
            yield from misfits(one, other, f"{name}[{index}]")
    elif not (isinstance(own, float) and type(saved) is int) and _form(saved) != _form(own):
        yield f"{name} is {_form(saved)}, not {_form(own)}"


def _form(value: object) -> str:
    """Name in words what must be the same."""
    if isinstance(value, Tensor):
        kind = "" if str(value.layout) == "torch.strided" and not value.is_meta else f"{value.layout} {value.device} "
        return f"a {kind}tensor {tuple(value.shape)} of {str(value.dtype).removeprefix('torch.')}"
    if isinstance(value, Mapping):
        return "a dictionary"
    if isinstance(value, Sequence) and not isinstance(value, str):
        return f"a list of {len(value)}"
    return "nothing" if value is None else f"a value of type {type(value).__name__}"
