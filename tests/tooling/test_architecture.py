"""docs/architecture.md and docs/glossary.md are held true: paths, functions, and the ways that calls really take."""

import ast
import re
import sys
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest
import torch

import gcp_kernels
from gcp_kernels.ops import backends

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
OPS = ROOT / "gcp_kernels" / "ops"
PAGES = ("architecture.md", "glossary.md")
ARCHITECTURE = (ROOT / "docs" / "architecture.md").read_text(encoding="utf-8")
MOST_HOPS = 8
MOST_FILES = 5


class Hop(NamedTuple):
    """A row of a table of the page."""

    function: str
    file: str


def section(title):
    """Give the text below a heading of the page, down to the next one."""
    (text,) = re.findall(rf"^## {re.escape(title)}$(.*?)(?=^## |\Z)", ARCHITECTURE, re.MULTILINE | re.DOTALL)
    return text


def hops(text, backend=None):
    """Read the hops of a table, of a backend where the first column names one."""
    start = rf"\| {backend} \|" if backend else r"\|"
    return [Hop(*found) for found in re.findall(rf"^{start} `(\w+)\(\)` \| `([^`]+)` \|", text, re.MULTILINE)]


FORWARD = section("The way of x forward")
BACKWARD = section("The way of the gradient back")
BACKENDS = ("torch", "triton", "cuda")
TO_A_BACKEND = hops(FORWARD)


def named_paths(page):
    """List what stands in backquotes and begins as a path of the checkout does."""
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    top = "|".join(("gcp_kernels", "csrc", "experiments", "benchmarks", "release", "tests", "docs"))
    return sorted(set(re.findall(rf"`((?:{top})/[^`\s]*|setup\.py|pyproject\.toml)`", text)))


@pytest.mark.parametrize("path", [(page, path) for page in PAGES for path in named_paths(page)], ids="-".join)
def test_a_path_that_is_named_exists(path):
    _, name = path
    assert (ROOT / name).is_dir() if name.endswith("/") else (ROOT / name).is_file()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_to_pages(page):
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    for target in re.findall(r"\]\((?!https?:)([^)#]+)\)", text):
        assert (ROOT / "docs" / target).is_file(), target


def test_every_room_and_every_backend_is_where_the_page_says():
    assert set(backends.BACKENDS) == set(BACKENDS)
    for room in set(backends.ROOMS.values()):
        for file in ("__init__.py", "operator.py", "torch.py"):
            assert (OPS / room / file).is_file(), f"{room}/{file}"
    for backend in BACKENDS:
        assert (OPS / f"{backend}_device" / "backend.py").is_file()


@cache
def defined_in(path):
    """Find the names of the functions that a file defines: in C++ at the beginning of a line, or as a kernel."""
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".py":
        functions = (ast.FunctionDef, ast.AsyncFunctionDef)
        return frozenset(node.name for node in ast.walk(ast.parse(text)) if isinstance(node, functions))
    kernels = re.findall(r"__launch_bounds__\([^\n]*\)\s*(\w+)\(", text)
    return frozenset((*re.findall(r"^(?:[\w:<>,&*]+ +)+(\w+)\(", text, re.MULTILINE), *kernels))


@cache
def defined_anywhere():
    sources = [path for folder in ("gcp_kernels", "csrc") for path in (ROOT / folder).rglob("*.*")]
    kinds = (".py", ".cpp", ".cu", ".cuh", ".h")
    return frozenset().union(*(defined_in(path) for path in sources if path.suffix in kinds))


ROWS = hops(FORWARD) + [hop for backend in BACKENDS for hop in hops(FORWARD, backend)] + hops(BACKWARD)


@pytest.mark.parametrize("hop", ROWS, ids=lambda hop: f"{hop.file}-{hop.function}")
def test_a_hop_is_defined_in_its_file(hop):
    assert (ROOT / hop.file).is_file(), hop.file
    assert hop.function in defined_in(ROOT / hop.file)


@pytest.mark.parametrize("function", sorted(set(re.findall(r"`(\w+)\(\)`", ARCHITECTURE))))
def test_a_function_that_is_named_exists(function):
    assert function in defined_anywhere()


def calls(last, run):
    """Run, and give the package's frames below the first call of the hop ``last``, from the outermost on."""
    found: list[list[Hop]] = []

    def hop_of(frame):
        file = Path(frame.f_code.co_filename)
        return Hop(frame.f_code.co_name, file.relative_to(ROOT).as_posix()) if OPS in file.parents else None

    def watch(frame, event, _):
        if event == "call" and not found and hop_of(frame) == last:
            frames = []
            while frame is not None:
                frames.append(hop_of(frame))
                frame = frame.f_back
            found.append([hop for hop in reversed(frames) if hop is not None])

    sys.setprofile(watch)
    try:
        run()
    finally:
        sys.setprofile(None)
    assert found, f"{last} is not called"
    return found[0]


def features(training):
    x = torch.randn(2, 4, 3, 3, generator=torch.Generator().manual_seed(0))
    return x.requires_grad_(training)


def expected(backend, training):
    """Give the hops of Python that the page names, behind the decorator of public functions."""
    rows = [hop for hop in TO_A_BACKEND if training or hop.function != "record"] + hops(FORWARD, backend)
    return [hop for hop in rows if hop.file.endswith(".py")]


def way_of(backend, training):
    x = features(training)
    last = expected(backend, training)[-1]
    public, *way = calls(last, lambda: gcp_kernels.fused_gcp(x, backend=backend))
    assert public == Hop("public", "gcp_kernels/ops/override.py")
    return way


@pytest.mark.parametrize("training", [False, True])
def test_the_way_forward_on_the_torch_backend(training):
    assert way_of("torch", training) == expected("torch", training)


@pytest.mark.parametrize("training", [False, True])
def test_the_way_forward_on_the_triton_backend(training):
    reason = backends.BACKENDS["triton"].why_not("isqrt_pool", features(False))
    if reason is not None:
        pytest.skip(reason)
    assert way_of("triton", training) == expected("triton", training)


@pytest.mark.parametrize("training", [False, True])
def test_the_way_forward_to_the_extension(monkeypatch, training):
    """The extension's own operator stands for what is behind it."""
    module = sys.modules[backends.implementation("isqrt_pool", "cuda").__module__]
    monkeypatch.setattr(backends.BACKENDS["cuda"], "why_not", lambda *_: None)
    entered = []
    extension = SimpleNamespace(isqrt_pool=lambda *arguments: entered.append(len(arguments)))
    monkeypatch.setattr(module, "operators", lambda operation: extension)
    assert way_of("cuda", training) == expected("cuda", training)
    assert entered


def test_the_way_of_the_gradient_back():
    y = gcp_kernels.fused_gcp(features(True), backend="torch")
    way = calls(hops(BACKWARD)[-1], y.sum().backward)
    assert way == hops(BACKWARD)


@pytest.mark.parametrize("backend", BACKENDS)
def test_there_are_few_hops(backend):
    """Counted from the public function to the launch, where a gradient is wanted."""
    assert hops(FORWARD, backend)
    public, *way = TO_A_BACKEND + hops(FORWARD, backend)
    assert public.function == "fused_gcp"
    assert len(way) <= MOST_HOPS


def test_a_new_normalisation_touches_few_files():
    (row,) = re.findall(r"^\| a new normalisation .*$", ARCHITECTURE, re.MULTILINE)
    assert 0 < len(set(re.findall(r"`(\w+[^`]*/[^`]+)`", row))) <= MOST_FILES
