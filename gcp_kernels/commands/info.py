"""Print versions, devices, and which backend serves which operation here, with the reason for each that does not."""

import argparse
import importlib
import platform

import torch

from .. import __version__
from ..ops import times
from ..ops.backends import AUTO_ORDER, BACKENDS, auto_order, select
from ..ops.cuda_device.backend import status as extension_status
from ..ops.rooms import OPERATIONS
from ..ops.shapes import triangle_size
from ..ops.triton_device.backend import status as triton_status
from ..precision import PRECISIONS

# (B, C, M): ResNets at 224 and 448 px, So-ViT, video, a super-resolution network; with fewer positions than channels
# MobileNetV2, ViT-B, and a ResNet without a reduction.
SHAPES = (
    *((256, 256, 196), (10, 256, 784), (256, 128, 196), (256, 64, 196), (16, 128, 3136), (1, 64, 25000)),
    *((256, 256, 49), (128, 768, 196), (64, 2048, 49)),
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare no options."""


def run(args: argparse.Namespace) -> int:
    """Print the report; always 0."""
    print("\n".join((*_versions(), "", *_devices(), "", *_backends(), "", *_times())))
    return 0


def _versions() -> list[str]:
    return [
        f"gcp_kernels  {__version__}",
        f"python       {platform.python_version()} on {platform.system()} {platform.machine()}",
        f"torch        {torch.__version__} (CUDA {torch.version.cuda or 'not built in'})",
        f"triton       {_triton_version()}; {triton_status()}",
        f"extension    {extension_status()}",
    ]


def _triton_version() -> str:
    try:
        return str(importlib.import_module("triton").__version__)
    except ImportError as error:
        return f"not importable: {error}"


def _devices() -> list[str]:
    lines = [f"cpu          {torch.get_num_threads()} threads, {torch.backends.cpu.get_cpu_capability()}"]
    if not torch.cuda.is_available():
        return [*lines, "cuda         no GPU that torch can use"]
    for index in range(torch.cuda.device_count()):
        gpu = torch.cuda.get_device_properties(index)
        lines.append(
            f"cuda:{index}       {gpu.name}, sm_{gpu.major}{gpu.minor}, {gpu.total_memory / 2**30:.0f} GiB, "
            f"{gpu.multi_processor_count} multiprocessors"
        )
    return lines


def _backends() -> list[str]:
    """Name the backend of every float32 shape in :data:`SHAPES`, by device and operation; like answers share a row."""
    lines = [
        f"backends, in the order in which 'auto' tries them: on a GPU {', '.join(auto_order('cuda'))}, "
        f"where the times below give no other; on the CPU {', '.join(auto_order('cpu'))}"
    ]
    for device in ("cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))):
        for operation in OPERATIONS:
            shapes_by_answer: dict[tuple[str, ...], list[str]] = {}
            for b, c, m in SHAPES:
                tensor = _input(operation, b, c, m, device)
                answers = {precision: _answer(operation, tensor, precision) for precision in PRECISIONS}
                for precision, answer in answers.items():
                    where = "" if len(set(answers.values())) == 1 else f" at precision={precision!r}"
                    shapes_by_answer.setdefault(answer, []).append(f"{tuple(tensor.shape)}{where}")
            for answer, shapes in shapes_by_answer.items():
                served = "every shape" if len(shapes_by_answer) == 1 else ", ".join(dict.fromkeys(shapes))
                lines += [f"{operation} on {device}, {served}:", *answer]
    return lines


def _times() -> list[str]:
    """Name the order of every class of shapes that has times, with these and what explains them."""
    lines = [
        "the order of 'auto' on a GPU, forward / backward if they differ, by times in us, forward + backward: a faster",
        f"backend goes first, but where predicted times leave it uncertain, by a factor of {times.UNCERTAINTY:g} each",
    ]
    for row in times.TABLE:
        c, m = row.shape
        both = (False, True)
        found = [row.times_of(name, backward) for name in AUTO_ORDER for backward in both]
        known = dict.fromkeys(str(one) for one in found if one is not None)
        orders = dict.fromkeys(", ".join(row.order(auto_order("cuda"), backward)) for backward in both)
        lines += [
            f"{row.operation}, {row}: {' / '.join(orders)}",
            f"    ({times.SAMPLES}, {c}, {m}): {'; '.join(known)}",
            f"    {row.reason}",
        ]
    return lines


def _answer(operation: str, tensor: torch.Tensor, precision: str) -> tuple[str, ...]:
    """Say of each backend, in a line, whether it serves the tensor, could, or why not, and which side it takes."""
    forward, backward = (select(operation, tensor, "auto", precision, backward=way) for way in (False, True))
    lines = []
    for name in AUTO_ORDER:
        reason = BACKENDS[name].why_not(operation, tensor, precision)
        if name in (forward, backward):
            verdict = "serves it"
            if forward != backward:
                verdict += " forward" if name == forward else " backward"
        else:
            verdict = f"can, with backend={name!r}" if reason is None else f"no: {reason}"
        if operation == "isqrt_pool" and reason is None:
            verdict += f", on the side of the {BACKENDS[name].side_of(*tensor.shape[1:])}"
        lines.append(f"    {name:<8}{verdict}")
    return tuple(lines)


def _input(operation: str, b: int, c: int, m: int, device: str) -> torch.Tensor:
    """Make a float32 input of the operation that takes no memory."""
    shape: tuple[int, ...] = (b, c, c)
    if operation == "triu_unvec":
        shape = (b, triangle_size(c))
    elif operation.endswith("_pool"):
        shape = (b, c, m)
    return torch.zeros((), device=device).expand(shape)
