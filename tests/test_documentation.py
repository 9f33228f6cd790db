"""What the documentation shows is run: the Python of README and docs, and every example in a docstring."""

import doctest
import importlib
import os
import re
import subprocess
import sys
from itertools import product
from pathlib import Path

import pytest
import torch

from gcp_kernels import covariance_pool, matrix_power, newton_schulz_sqrt
from gcp_kernels.commands import selftest
from gcp_kernels.ops import times

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets_of(document):
    return re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)


SNIPPETS = snippets_of(README)
OF_MODELS = [snippet for snippet in SNIPPETS if "torchvision" in snippet]


USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def as_a_user(script):
    """Run a script in a fresh process, in which nothing replaces a library that does not load."""
    return subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=300, check=False
    )


def run_in_order(snippets, name="README.md"):
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), namespace)


@pytest.mark.parametrize("number", range(len(SNIPPETS)))
def test_a_readme_snippet_runs_by_itself_as_a_user_has_it(number):
    snippet = SNIPPETS[number]
    libraries = [name for name in ("torchvision", "timm") if re.search(rf"^import {name}$", snippet, re.MULTILINE)]
    if libraries and (failed := as_a_user(f"import {', '.join(libraries)}")).returncode:
        pytest.skip(f"{' and '.join(libraries)} cannot be imported here: {failed.stderr.strip().splitlines()[-1]}")
    done = as_a_user(snippet)
    assert done.returncode == 0, done.stderr


def test_readme_snippets_of_models_run():
    """Where torchvision's library does not load too: with the operators that its import wants made up."""
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
    assert OF_MODELS
    run_in_order(OF_MODELS)


WITH_SNIPPETS = sorted(path for path in (ROOT / "docs").glob("*.md") if snippets_of(path.read_text("utf-8")))


@pytest.mark.parametrize("path", WITH_SNIPPETS, ids=lambda path: path.name)
def test_snippets_of_docs_run_in_order_as_a_user_has_them(path):
    done = as_a_user("\n".join(snippets_of(path.read_text("utf-8"))))
    assert done.returncode == 0, done.stderr


def test_readme_links_to_files_that_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


FACTOR = r"(\d+\.\d+) \((\d+\.\d+) to (\d+\.\d+)\)"


def test_readme_figures_are_those_of_the_committed_runs():
    """Factors of the table that follows each link to a run, median and quartiles, which the README rounds further."""
    found = re.findall(r"\((benchmarks/results/[^)]*/table\.txt)\).*?\n\n(\|.*?)\n\n", README, re.DOTALL)
    assert len(found) == 2
    for link, shown in found:
        printed = re.findall(f"x{FACTOR}", (ROOT / link).read_text(encoding="utf-8"))
        factors = re.findall(FACTOR, shown)
        assert len(factors) >= 28
        for factor in factors:
            # Half a digit of the last place shown, and half of one of the last place printed.
            margins = [0.5 * 10.0 ** -len(figure.partition(".")[2]) + 0.006 for figure in factor]
            assert any(
                all(
                    abs(float(ours) - float(one)) < margin
                    for ours, one, margin in zip(factor, each, margins, strict=True)
                )
                for each in printed
            ), (link, factor)


def test_readme_times_on_a_gpu_are_those_by_which_auto_orders_backends():
    found = re.findall(r"^\| (\d+), (\d+) \| (.*) \| (.*) \| (.*) \| (.*) \|$", README, flags=re.MULTILINE)
    assert {(int(c), int(m)) for c, m, *_ in found} == {entry.shape for entry in times.TABLE}

    def shown(entry, backend, measured):
        known = (one for one in entry.times if (one.backend, one.measured) == (backend, measured))
        times_of = ((one.forward, one.backward) for one in known)
        return next(" / ".join("not measured" if time is None else f"{time:.0f}" for time in both) for both in times_of)

    for c, m, *cells in found:
        entries = {entry.precision: entry for entry in times.TABLE if entry.shape == (int(c), int(m))}
        for (precision, backend), cell in zip(product(("fast", "high"), ("cuda", "triton")), cells, strict=True):
            expected = shown(entries[precision], backend, True)
            if backend == "cuda":
                expected += f" ({shown(entries[precision], backend, False)})"
            assert cell == expected


def relative_error(actual, expected):
    return ((actual.double() - expected.double()).norm() / expected.norm()).item()


def test_readme_figures_are_how_far_the_iterate_is_from_the_root():
    (header,) = re.findall(r"^\| N \| (.*) \|$", README, flags=re.MULTILINE)
    rows = re.findall(r"^\| (\d+) channels[^|]* \| (.*) \|$", README, flags=re.MULTILINE)
    assert [channels for channels, _ in rows] == ["64", "256"]
    for channels, figures in rows:
        x = torch.relu(torch.randn(8, int(channels), 14, 14))
        exact = matrix_power(covariance_pool(x.double()), alpha=0.5)
        for n_iter, figure in zip(header.split(" | "), figures.split(" | "), strict=True):
            error = relative_error(newton_schulz_sqrt(covariance_pool(x), n_iter=int(n_iter)), exact)
            # What is near zero is rounding, which is of a size and of no fixed value.
            assert error == pytest.approx(float(figure), rel=0.05 if float(figure) > 1e-3 else 0.75), (channels, n_iter)


def test_readme_figures_are_what_the_selftest_finds():
    (text,) = re.findall(
        r"For\s+`isqrt_pool` of the torch backend it printed.*?rounding\s+of\s+the\s+result", README, re.DOTALL
    )
    shown = [float(figure) for figure in re.findall(r"\d\.\de-\d", text)]
    assert len(shown) == 6
    arithmetic = [a for a in selftest.ARITHMETIC if a.dtype != torch.float64 and a.precision != "fast"]
    assert [str(a) for a in arithmetic] == ["float32 high", "float16", "bfloat16"]
    found = [error for a in arithmetic for error in selftest._checked("torch", "cpu", "isqrt_pool", a)]
    assert found == pytest.approx(shown, rel=0.3)


WITH_EXAMPLES = sorted(
    path
    for folder in ("gcp_kernels", "experiments")
    for path in (ROOT / folder).rglob("*.py")
    if ">>> " in path.read_text("utf-8")
)


# Whose examples need what is not installed with the package.
NEEDED = {
    "gcp_kernels/models.py": "torchvision",
    "gcp_kernels/integrations/replacement.py": "torchvision",
    "gcp_kernels/integrations/checkpoint.py": "torchvision",
}


@pytest.mark.parametrize("path", WITH_EXAMPLES, ids=lambda path: str(path.relative_to(ROOT)))
def test_docstring_examples(path):
    if needed := NEEDED.get(path.relative_to(ROOT).as_posix()):
        pytest.importorskip(needed)
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    results = doctest.testmod(importlib.import_module(module))
    assert results.attempted > 0
    assert results.failed == 0


def test_every_public_function_documents_shapes_and_errors():
    package = importlib.import_module("gcp_kernels")
    functions = [getattr(package, name) for name in package.__all__]
    layers = (package.nn.GCP, package.nn.MultiHeadCrossCovariance, package.nn.TokenFusionHead)
    for function in (*filter(callable, functions), *layers):
        for section in ("Raises:", "Example:"):
            assert section in (function.__doc__ or ""), f"{function.__name__} lacks {section}"
