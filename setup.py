"""Builds the optional CUDA extension; everything else about the package stands in pyproject.toml.

GCP_KERNELS_CUDA=auto (default): build it on Linux, for a Python with the stable ABI, where nvcc and torch >= 2.10 are
found; otherwise install the Python package alone, say so, and leave the reason for `python -m gcp_kernels info`.
1: build it or fail. 0: never. TORCH_CUDA_ARCH_LIST chooses the GPU architectures, CUDA_HOME the toolkit.
GCP_KERNELS_LIBRARY names the extension's operators in torch.ops, if gcp_kernels_cuda may be taken in a process.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import setuptools
from setuptools.command.build_py import build_py

# pip does not check this without build isolation, and what an older one says of pyproject.toml is a riddle.
if int(setuptools.__version__.split(".")[0]) < 77:
    sys.exit(
        f"error: building gcp_kernels needs setuptools >= 77, found {setuptools.__version__}; "
        "run pip install --upgrade setuptools"
    )

# Machine code for Ampere and Ada (8.x), Hopper (9.0) and Blackwell (10.x and 12.x), and PTX.
ARCHITECTURES = runpy.run_path(str(Path("gcp_kernels", "architectures.py")))["BUILT"]
SOURCES = sorted(str(path) for pattern in ("*.cpp", "*.cu") for path in Path("csrc").rglob(pattern))
DEPENDS = sorted(str(path) for pattern in ("*.h", "*.cuh") for path in Path("csrc").rglob(pattern))
DEPENDS.append(str(Path("gcp_kernels", "architectures.py")))
STABLE_ABI = ["-DTORCH_TARGET_VERSION=0x020a000000000000", "-DUSE_CUDA", "-DPy_LIMITED_API=0x030A0000"]


LIBRARY = os.environ.get("GCP_KERNELS_LIBRARY", "gcp_kernels_cuda")
if not (LIBRARY.isascii() and LIBRARY.isidentifier()):
    sys.exit(f"error: GCP_KERNELS_LIBRARY must be an identifier of ASCII letters, digits and _, got {LIBRARY!r}")


class NotBuildable(Exception):
    """Why the CUDA extension cannot be built here, as a sentence fragment with the remedy."""


def existing(*folders: Path) -> list[str]:
    return [str(folder) for folder in folders if folder.is_dir()]


def require_stable_abi() -> None:
    """One extension serves every CPython that has the stable ABI, and only on Linux is it linked as it must be."""
    if sys.platform != "linux":
        raise NotBuildable(f"it is built on Linux only, and this is {sys.platform}; use Linux, or WSL on Windows")
    if sys.implementation.name != "cpython":
        raise NotBuildable(f"it wants the stable ABI of CPython, and this Python is {sys.implementation.name}")
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        raise NotBuildable(
            "this Python is free-threaded and has no stable ABI, which it is built for; take a Python with the GIL"
        )
    if sysconfig.get_config_var("Py_TRACE_REFS") and sys.version_info < (3, 13):
        raise NotBuildable("this Python traces references (--with-trace-refs) and has no stable ABI, which it needs")


def find_cuda_home() -> Path:
    """Find the toolkit: CUDA_HOME or CUDA_PATH alone where set, else the owner of nvcc, else /usr/local/cuda."""
    chosen = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    if chosen:
        candidates = [Path(chosen)]
    else:
        nvcc = shutil.which("nvcc")
        # What is found may be a link into the toolkit, or a script that is no part of it.
        owners = [Path(nvcc), Path(nvcc).resolve()] if nvcc else []
        candidates = [*(owner.parents[1] for owner in owners), Path("/usr/local/cuda")]
    for home in candidates:
        headers = [home / "include", home / "targets" / "x86_64-linux" / "include"]
        if (home / "bin" / "nvcc").is_file() and any((h / "cuda_runtime_api.h").is_file() for h in headers):
            return home
    looked_in = ", ".join(dict.fromkeys(map(str, candidates)))
    raise NotBuildable(f"no CUDA toolkit (bin/nvcc, headers) in {looked_in}; install one or set CUDA_HOME")


def import_torch():
    try:
        import torch
    except ImportError as error:
        raise NotBuildable(
            f"torch was not importable in the build environment ({error}); "
            "install torch first, then install with --no-build-isolation"
        ) from error
    if tuple(int(part) for part in torch.__version__.split(".")[:2]) < (2, 10):
        raise NotBuildable(f"torch {torch.__version__} is older than 2.10")
    return torch


def ask_nvcc(home: Path, question: str) -> str:
    command = [str(home / "bin" / "nvcc"), question]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def default_architectures(home: Path) -> str:
    known = ask_nvcc(home, "--list-gpu-code").split()
    return ";".join(name for code, name in ARCHITECTURES.items() if code in known)


def architecture_flags(names: str) -> list[str]:
    """Give nvcc's options for a list such as TORCH_CUDA_ARCH_LIST has, of numbers alone.

    The sources know two generations, before 9.0 and from there on. Of each the intermediate code is made but once, and
    machine code for every architecture from that: half the time of a build.
    """
    parts = [(int(name.removesuffix("+PTX").replace(".", "")), name.endswith("+PTX")) for name in names.split(";")]
    flags = []
    for generation in (80, 90):
        members = [(number, ptx) for number, ptx in parts if (90 if number >= 90 else 80) == generation]
        code = [f"sm_{number}" for number, _ in members]
        if any(ptx for _, ptx in members):
            code.append(f"compute_{generation}")
        if code:
            flags.append(f"-gencode=arch=compute_{generation},code=[{','.join(code)}]")
    return flags


def cuda_extension():
    """Give the setup() keywords that build the extension, and one line that says what it was built with."""
    require_stable_abi()
    home = find_cuda_home()
    torch = import_torch()
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = str(home)  # a CPU build of torch leaves it None, whatever the environment says
    chosen = os.environ.get("TORCH_CUDA_ARCH_LIST")
    architectures = chosen or default_architectures(home)
    # What is chosen may have names that torch translates.
    flags = [] if chosen else architecture_flags(architectures)
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures

    class BuildExtension(cpp_extension.BuildExtension):
        def build_extensions(self) -> None:
            try:
                super().build_extensions()
            except Exception as error:
                remedy = "GCP_KERNELS_CUDA=0 installs gcp_kernels without it"
                raise RuntimeError(f"the CUDA extension did not compile; {remedy}. {error}") from error

    target = home / "targets" / "x86_64-linux"
    libraries = existing(home / "lib64", home / "lib", target / "lib")
    extension = cpp_extension.CppExtension(
        "gcp_kernels._C",
        SOURCES,
        depends=DEPENDS,
        include_dirs=[str(Path("csrc").resolve()), *existing(home / "include", target / "include")],
        py_limited_api=True,
        define_macros=[("GCP_KERNELS_LIBRARY", LIBRARY)],
        extra_compile_args={
            "cxx": ["-O2", "-fvisibility=hidden", *STABLE_ABI],
            # The largest source takes minutes for each architecture: as many of them at once as there are CPUs.
            "nvcc": ["-O3", "-std=c++17", "-Xcompiler=-fvisibility=hidden", "--threads=0", *flags],
        },
        # No strong symbol of ours names torch's CUDA half, hence --no-as-needed. The static CUDA runtime hides
        # its symbols, hence --exclude-libs: else the loader would mix it with the shared one torch brings.
        extra_link_args=[
            *("-Wl,--no-as-needed", "-ltorch", *(f"-L{folder}" for folder in libraries)),
            *("-lcudart_static", "-Wl,--exclude-libs,libcudart_static.a", "-ldl", "-lrt", "-lpthread"),
        ],
    )
    keywords = {
        "ext_modules": [extension],
        "cmdclass": {"build_ext": BuildExtension},
        "options": {"bdist_wheel": {"py_limited_api": "cp310"}},
    }
    release = re.search(r"release ([\d.]+)", ask_nvcc(home, "--version"))
    nvcc = f"nvcc {release[1] if release else 'of unknown version'}"
    return keywords, f"torch {torch.__version__}, {nvcc}, for {os.environ['TORCH_CUDA_ARCH_LIST']}"


def choose_build() -> tuple[dict, bool, str]:
    """(keywords for setup(), whether the extension is built, why or with what)."""
    wanted = os.environ.get("GCP_KERNELS_CUDA", "auto")
    if wanted not in ("auto", "0", "1"):
        sys.exit(f"error: GCP_KERNELS_CUDA must be auto, 0 or 1, got {wanted!r}")
    if wanted == "0":
        return {}, False, "GCP_KERNELS_CUDA=0 was set for the build"
    try:
        keywords, built_with = cuda_extension()
    except NotBuildable as reason:
        if wanted == "1":
            sys.exit(f"error: GCP_KERNELS_CUDA=1, but the CUDA extension cannot be built: {reason}")
        return {}, False, str(reason)
    return keywords, True, built_with


KEYWORDS, BUILT, DETAIL = choose_build()
MESSAGE = f"with the CUDA extension ({DETAIL})" if BUILT else f"WITHOUT the CUDA extension: {DETAIL}"
print(f"\n{'=' * 100}\ngcp_kernels is built {MESSAGE}\n{'=' * 100}\n", file=sys.stderr, flush=True)


class BuildPython(build_py):
    """Adds gcp_kernels/_build_info.py, which tells the installed package how it was built."""

    def _build_info(self) -> Path:
        root = Path() if self.editable_mode else Path(self.build_lib)
        return root / "gcp_kernels" / "_build_info.py"

    def run(self) -> None:
        super().run()
        noted = {
            "VERSION": self.distribution.get_version(),
            "CUDA_EXTENSION": BUILT,
            "DETAIL": DETAIL,
            "LIBRARY": LIBRARY,
        }
        lines = ['"""Written by setup.py."""', "", *(f"{name} = {value!r}" for name, value in noted.items()), ""]
        self._build_info().write_text("\n".join(lines), encoding="utf-8")

    def get_outputs(self, include_bytecode: bool = True) -> list[str]:
        return [*super().get_outputs(include_bytecode), str(self._build_info())]


KEYWORDS["cmdclass"] = {**KEYWORDS.get("cmdclass", {}), "build_py": BuildPython}
setuptools.setup(**KEYWORDS)
