"""Lets the Python code of torchvision be imported where its shared library does not load.

torchvision's wheels from the usual index are linked to CUDA and do not load beside a torch without it. Its import then
fails, because it registers fake kernels for two box operators that the library would have defined. Here these two
schemas are defined, and nothing else: the models under test are torchvision's own, and classification models use none
of its operators. Where the library loads, or there is no torchvision, nothing is done.

An environment that has no torchvision for users may have one for tests, in a folder of its own (model_libraries.py).
"""

import sys
from importlib.util import find_spec
from pathlib import Path

import torch

from tests.support.model_libraries import FOR_TESTS

SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def look_where_tests_may() -> None:
    """Take torchvision and timm from the folder for tests where there is no torchvision for users."""
    if find_spec("torchvision") is None and FOR_TESTS.is_dir():
        sys.path.append(str(FOR_TESTS))


def library_loads() -> bool:
    """Load torchvision's shared library into this process, and say whether that worked."""
    spec = find_spec("torchvision")
    if spec is None or spec.origin is None:
        return False
    for path in Path(spec.origin).parent.glob("_C*.so"):
        try:
            torch.ops.load_library(str(path))
        except OSError:
            continue
        return True
    return False


def define_missing_operators() -> torch.library.Library | None:
    """Define what the import of torchvision needs; the definitions last as long as what is returned."""
    if find_spec("torchvision") is None or library_loads():
        return None
    operators = torch.library.Library("torchvision", "DEF")
    for schema in SCHEMAS:
        operators.define(schema)
    return operators


look_where_tests_may()
OPERATORS = define_missing_operators()


def why_without_operators() -> str:
    """Return why torchvision's own operators, such as those of its detectors, cannot run here; nothing if they can."""
    if find_spec("torchvision") is None:
        return "torchvision is not installed"
    return "torchvision's operators do not load beside this torch" if OPERATORS is not None else ""


WITHOUT_OPERATORS = why_without_operators()
