"""What the documentation shows is run: the Python of README and docs, and every example in a docstring."""

import doctest
import importlib
import re
from pathlib import Path

import pytest
import torch

from gcp_kernels import covariance_pool, matrix_power, newton_schulz_sqrt
from gcp_kernels.commands import selftest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def snippets_of(document):
    return re.findall(r"```python\n(.*?)```", document, flags=re.DOTALL)


SNIPPETS = snippets_of(README)
OF_MODELS = [snippet for snippet in SNIPPETS if "torchvision" in snippet]


def run_in_order(snippets, name="README.md"):
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), namespace)


def test_readme_snippets_run_in_order():
    snippets = [snippet for snippet in SNIPPETS if snippet not in OF_MODELS]
    assert len(snippets) >= 4
    run_in_order(snippets)


def test_readme_snippets_of_models_run():
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
    assert OF_MODELS
    run_in_order(OF_MODELS)


WITH_SNIPPETS = sorted(path for path in (ROOT / "docs").glob("*.md") if snippets_of(path.read_text("utf-8")))


@pytest.mark.parametrize("path", WITH_SNIPPETS, ids=lambda path: path.name)
def test_snippets_of_docs_run_in_order(path):
    run_in_order(snippets_of(path.read_text("utf-8")), path.name)


def test_readme_links_to_files_that_exist():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert targets
    for target in targets:
        assert (ROOT / target).is_file(), target


def test_readme_figures_are_those_of_the_committed_run():
    figures = re.findall(r"(\d\.\d\d) \((\d\.\d\d) to (\d\.\d\d)\)", README)
    assert len(figures) >= 12
    (link,) = re.findall(r"\((benchmarks/results/[^)]*/table\.txt)\)", README)
    table = (ROOT / link).read_text(encoding="utf-8")
    for median, low, high in figures:
        assert f"x{median} ({low} to {high})" in table


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
        r"For `isqrt_pool` of the torch backend it printed.*?rounding of the result", README, re.DOTALL
    )
    shown = [float(figure) for figure in re.findall(r"\d\.\de-\d", text)]
    assert len(shown) == 6
    arithmetic = [a for a in selftest.ARITHMETIC if a.dtype != torch.float64 and a.precision != "fast"]
    assert [str(a) for a in arithmetic] == ["float32 high", "float16", "bfloat16"]
    found = [error for a in arithmetic for error in selftest._checked("torch", "cpu", "isqrt_pool", a)]
    assert found == pytest.approx(shown, rel=0.3)


WITH_EXAMPLES = sorted(path for path in (ROOT / "gcp_kernels").rglob("*.py") if ">>> " in path.read_text("utf-8"))


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
