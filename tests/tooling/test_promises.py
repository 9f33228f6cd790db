"""The oldest versions that are promised are the same wherever they are named, and `make test-oldest` runs them."""

import re
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]


def text(name):
    return (ROOT / name).read_text(encoding="utf-8")


def one(pattern, name):
    """Find the only value that a pattern has in a file."""
    found = set(re.findall(pattern, text(name), flags=re.MULTILINE))
    assert len(found) == 1, f"{pattern} in {name}: {found}"
    return found.pop()


PYTHON = one(r'^requires-python = ">=([\d.]+)"$', "pyproject.toml")
TORCH = one(r'^dependencies = \["torch>=([\d.]+)"\]$', "pyproject.toml")
TRITON = one(r'^triton = \["triton>=([\d.]+)"\]$', "pyproject.toml")


def test_the_oldest_versions_are_those_that_are_tested():
    first = one(r"^test-oldest: test-torch-([\d.]+) ", "Makefile")
    assert first == f"{TORCH}.0"
    python = f"PYTHON{PYTHON.replace('.', '')}"
    assert one(rf"^test-torch-{re.escape(first)}: OLD_PYTHON = \$\((\w+)\)$", "Makefile") == python
    assert one(rf"^{python} \?= (\S+)$", "Makefile") == f"python{PYTHON}"
    assert one(r'"triton==([\d.]+)"', "Makefile") == f"{TRITON}.0"


def test_every_place_names_the_same_versions():
    assert one(r"torch\.__version__.*< \((\d+, \d+)\)", "setup.py") == TORCH.replace(".", ", ")
    assert one(r"is older than ([\d.]+)\"", "setup.py") == TORCH
    assert one(r"every CPython from ([\d.]+\d) on Linux", "docs/install.md") == PYTHON
    assert one(r"every torch from ([\d.]+\d)", "docs/install.md") == TORCH
    for page in ("README.md", "docs/install.md"):
        assert one(r"torch \(([\d.]+) or newer\)", page) == TORCH
        assert one(r"Python ([\d.]+) or newer", page) == PYTHON
    assert one(r"CUDA build of torch ([\d.]+) or newer", "docs/gpu.md") == TORCH
    major, minor = PYTHON.split(".")
    assert one(r'^target-version = "py(\d+)"$', "pyproject.toml") == major + minor
    assert one(r'^python_version = "([\d.]+)"$', "pyproject.toml") == PYTHON
    assert sys.version_info >= (int(major), int(minor))
