"""How csrc is laid out: rooms that do not know each other, headers that can be included alone and together."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.cuda_emulation.pooling import CSRC, HERE, PRIMITIVES

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.skipif(not CSRC.is_dir(), reason="needs the source tree")]

ROOMS = ("isqrt_pool", "covariance_pool", "triangle")
SOURCES = sorted(path for path in CSRC.rglob("*") if path.suffix in (".h", ".cpp", ".cu", ".cuh"))
# Host entries alone know torch, and only a launch needs nvcc.
TORCH = ("check.h", "entry.h", "layout_entry.h", "pooling_arguments.h", "pooling_launch.h", "policy_entry.h")
HARDWARE = ("primitives_cuda.cuh", "launch.cuh", "launch.h")


def files_of(folder: str) -> list[Path]:
    return [path for path in SOURCES if path.is_relative_to(CSRC / folder)]


def includes(path: Path) -> list[str]:
    return re.findall(r'#include "([^"]+)"', path.read_text(encoding="utf-8"))


def test_every_include_is_named_from_the_root_of_csrc():
    """So none reaches a header of the tests, and the name says the room."""
    missing = [(str(path), name) for path in SOURCES for name in includes(path) if not (CSRC / name).is_file()]
    assert missing == []


def test_kernels_know_no_torch():
    """Host entries do: the .cpp files, and the headers that only they include."""
    others = [path for path in SOURCES if path.suffix != ".cpp" and path.name not in TORCH]
    assert {path.suffix for path in others} == {".h", ".cuh", ".cu"}
    for path in others:
        assert not re.search(r"#include\s*[<\"](torch|ATen|c10)", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("room", ROOMS)
def test_rooms_do_not_know_each_other(room):
    others = tuple(f"{other}/" for other in ROOMS if other != room)
    for path in files_of(room):
        assert [name for name in includes(path) if name.startswith(others)] == [], path


def test_device_code_knows_no_room():
    for path in files_of("device"):
        assert [name for name in includes(path) if name.partition("/")[0] in ROOMS] == [], path


def test_a_symbol_of_every_operation_is_named_like_its_room():
    for room, sides in (("isqrt_pool", ("", "_positions")), ("covariance_pool", ("",))):
        text = "".join(path.read_text(encoding="utf-8") for path in files_of(room))
        named = {f"{room}{side}_{way}" for side in sides for way in ("forward", "backward")}
        assert set(re.findall(r"\b(\w+)_(?:kernel|launch)\(", text)) == named


@pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++")
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs Linux (the emulation's fibres)")
def test_all_headers_of_kernels_compile_together(tmp_path):
    """In one file, in both orders: no name stands for two things."""
    headers = [
        str(p.relative_to(CSRC)) for p in SOURCES if p.suffix in (".h", ".cuh") and p.name not in TORCH + HARDWARE
    ]
    assert {"triangle/triangle.cuh", "isqrt_pool/backward.cuh", "covariance_pool/backward.cuh"} <= set(headers)
    for order in (headers, headers[::-1]):
        source = tmp_path / "together.cpp"
        source.write_text("".join(f'#include "{name}"\n' for name in ("emulation.h", *order)))
        command = ["g++", "-std=c++17", "-fsyntax-only", "-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas"]
        command += [PRIMITIVES, f"-I{HERE}", f"-I{CSRC}", str(source)]
        done = subprocess.run(command, check=False, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
