"""Lay a built package out as the ``kernels`` library of Hugging Face loads it: ``python -m release.hub_kernels``.

The folder has one variant for each kind of machine, https://huggingface.co/docs/kernels (kernel requirements). Of the
variants that fit, the library takes the one with compiled code first:

    build/torch-universal/                                Triton and plain torch, for any device
    build/torch-stable-abi210-cu<version>-<machine>-linux/  the same with the CUDA extension, if it was built
    README.md, LICENSE

A variant has the package in a folder of its name, a module that exports it, ``layers`` and ``metadata.json``. Nothing
is uploaded.
"""

from __future__ import annotations

import argparse
import base64
import hashlib
import json
import os
import platform
import re
import runpy
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .relocate import PACKAGE, relocate

CHECKOUT = Path(__file__).resolve().parents[1]
# The extension asks this version of torch for its stable ABI; TORCH_TARGET_VERSION in setup.py.
STABLE_ABI = "210"
# What users name as version=1. It rises when a public name goes or means something else.
KERNEL_VERSION = 1
# It knows the variants by the stable ABI.
OLDEST_KERNELS = "0.17.0"
UNIVERSAL = "torch-universal"

EXPORTS = f'''"""gcp_kernels as a kernel; see README.md beside the folder of the variants."""

from . import {PACKAGE}, layers
from .{PACKAGE} import *

__all__ = [*{PACKAGE}.__all__, "layers"]
__version__ = {PACKAGE}.__version__
'''

CARD = """---
library_name: kernels
license: mit
tags:
- kernels
---

# gcp-kernels {version}

Global covariance pooling (iSQRT-COV) for PyTorch as fused operators with forward and backward passes.

```python
import torch
from kernels import get_local_kernel

gcp = get_local_kernel("PATH OF THIS FOLDER")
pooled = gcp.fused_gcp(torch.randn(2, 64, 14, 14))  # (2, 2080)
```

The functions and layers are those of the package of the same version. `layers.GCP` is a forward pass for
`kernels.kernelize`: it replaces that of a module which pools, and whose attribute `n_iter` is the number of iterations.

| variant | what it has |
|---|---|
{table}

The operators are in a library of their own, so an installed gcp_kernels can be in the same process.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Build the package of this checkout, and lay it out in a folder; return the exit code."""
    parser = argparse.ArgumentParser(prog="python -m release.hub_kernels", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="where the kernel goes; it must not exist, or be empty")
    chosen = parser.parse_args(arguments).folder
    try:
        with tempfile.TemporaryDirectory() as built:
            check_empty(chosen)
            variants = lay_out(build(Path(built)), chosen)
    except (OSError, ValueError, subprocess.CalledProcessError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print("\n".join(str(variant) for variant in variants))
    return 0


def build(folder: Path) -> Path:
    """Build the package of this checkout in a folder, with operators of a name that no other build has."""
    sources = folder / "sources"
    sources.mkdir()
    generated = shutil.ignore_patterns("__pycache__", "*.so", "_build_info.py")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(CHECKOUT / name, sources)
    for name in ("csrc", PACKAGE):
        shutil.copytree(CHECKOUT / name, sources / name, ignore=generated)
    compiled = [sources / "setup.py", *sorted(path for path in (sources / "csrc").rglob("*") if path.is_file())]
    library = f"{PACKAGE}_cuda_{_digest(sources, compiled)[:8]}"
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-compile", "--disable-pip-version-check"]
    command += ["--no-build-isolation", "--no-deps", "--target", str(folder / "installed"), str(sources)]
    subprocess.run(command, env={**os.environ, "GCP_KERNELS_LIBRARY": library}, check=True)
    return folder / "installed" / PACKAGE


def lay_out(package: Path, folder: Path) -> list[Path]:
    """Make the variants that a built package has.

    Args:
        package: the folder ``gcp_kernels`` that was built, with the ``_build_info.py`` of setup.py.
        folder: where the kernel goes; it must not exist, or be empty.

    Returns:
        The folders of the variants.

    Raises:
        ValueError: the folder has something in it, or the package was not built, or not as it must be.
    """
    check_empty(folder)
    info = package / "_build_info.py"
    if not info.is_file():
        raise ValueError(f"{package} was never built: it has no {info.name}; run pip install --editable .")
    noted = runpy.run_path(str(info))
    if "VERSION" not in noted:
        raise ValueError(f"{info} is of an older build; run pip install --editable . again")
    without = {**noted, "CUDA_EXTENSION": False, "DETAIL": f"the variant {UNIVERSAL} has no CUDA code"}
    variants = {UNIVERSAL: (without, {"type": "cpu"})}
    if noted["CUDA_EXTENSION"]:
        name, backend = cuda_variant(noted["DETAIL"])
        variants[name] = (noted, backend)
    for name, (notes, backend) in variants.items():
        _write_variant(package, folder / "build" / name, notes, backend)
    shutil.copy(CHECKOUT / "LICENSE", folder)
    rows = [f"| `{name}` | {notes['DETAIL']} |" for name, (notes, _) in variants.items()]
    _write(folder / "README.md", CARD.format(version=noted["VERSION"], table="\n".join(rows)))
    return [folder / "build" / name for name in variants]


def check_empty(folder: Path) -> None:
    """Raise ValueError where the kernel would be mixed with something else."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} must be an empty folder, or not exist; remove it first")


def cuda_variant(detail: str) -> tuple[str, dict[str, Any]]:
    """Give the variant's name and its backend in ``metadata.json``, from what the extension was built with."""
    found = re.search(r"nvcc (\d+)\.(\d+), for (.+)$", detail)
    if found is None:
        raise ValueError(f"the build does not say for which CUDA and architectures it is: {detail!r}")
    machine = f"{platform.machine()}-{platform.system().lower()}"
    architectures = [name for name in re.split(r"[; ]+", found[3]) if name]
    name = f"torch-stable-abi{STABLE_ABI}-cu{found[1]}{found[2]}-{machine}"
    return name, {"type": "cuda", "archs": architectures}


def _write_variant(package: Path, variant: Path, notes: dict[str, Any], backend: dict[str, Any]) -> None:
    files = sorted(path for path in package.rglob("*") if path.suffix == ".py" or path.name == "py.typed")
    files.remove(package / "_build_info.py")  # the notes are what it says of this variant
    if notes["CUDA_EXTENSION"]:
        files.append(package / "_C.abi3.so")
    # A name for each content: whoever loads two versions has two packages, and two libraries of operators.
    kernel = f"_{PACKAGE}_{backend['type']}_{_digest(package, files)[:12]}"
    for path in files:
        place = variant / PACKAGE / path.relative_to(package)
        if path.suffix != ".py":
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, place)
            continue
        parents = (PACKAGE, *path.relative_to(package).parent.parts)
        try:
            _write(place, relocate(path.read_text(encoding="utf-8"), parents, kernel))
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from error
    names = ("VERSION", "CUDA_EXTENSION", "DETAIL", "LIBRARY")
    _write(variant / PACKAGE / "_build_info.py", "".join(f"{name} = {notes[name]!r}\n" for name in names))
    _write(variant / "__init__.py", EXPORTS)
    shutil.copyfile(Path(__file__).with_name("hub_layers.py"), variant / "layers.py")
    metadata = {
        "id": kernel,
        "name": PACKAGE.replace("_", "-"),
        "version": KERNEL_VERSION,
        "license": "MIT",
        "kernels-minver": OLDEST_KERNELS,
        "python-depends": [],
        "backend": backend,
        "digest": {"algorithm": "sha256", "files": _hashes(variant)},
    }
    _write(variant / "metadata.json", json.dumps(metadata, indent=2) + "\n")


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def _digest(root: Path, files: Sequence[Path]) -> str:
    found = hashlib.sha256()
    for path in files:
        found.update(f"{path.relative_to(root)}\0{path.stat().st_size}\0".encode())
        found.update(path.read_bytes())
    return found.hexdigest()


def _hashes(variant: Path) -> dict[str, str]:
    files = sorted(path for path in variant.rglob("*") if path.is_file())
    return {
        path.relative_to(variant).as_posix(): base64.b64encode(hashlib.sha256(path.read_bytes()).digest()).decode()
        for path in files
    }


if __name__ == "__main__":
    sys.exit(main())
