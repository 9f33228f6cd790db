"""What the documentation shows is run: the Python of README and docs, and every example in a docstring.

And it hangs together: every link leads to a file, or a heading, that is there. Its figures are held in
test_documented_times.py and test_documented_accuracy.py.
"""

import doctest
import importlib
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[2]
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))


def name_of(path):
    return path.relative_to(ROOT).as_posix()


def snippets_of(page):
    return re.findall(r"```python\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), flags=re.DOTALL)


# Pages of which each snippet can be copied by itself; those of the others follow one another.
BY_THEMSELVES = ("README.md", "docs/guide.md", "docs/papers.md", "docs/deployment.md")
SNIPPETS = [(page, number) for page in BY_THEMSELVES for number in range(len(snippets_of(page)))]
OF_MODELS = [
    snippet
    for page in BY_THEMSELVES
    for snippet in snippets_of(page)
    if re.search("^import torchvision$", snippet, re.M)
]


USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}


def as_a_user(script, folder=ROOT):
    """Run a script in a fresh process, in which nothing replaces a library that does not load."""
    users = {**USERS, "PYTHONPATH": os.pathsep.join(filter(None, (str(ROOT), USERS.get("PYTHONPATH"))))}
    return subprocess.run(
        [sys.executable, "-c", script], cwd=folder, env=users, capture_output=True, text=True, timeout=300, check=False
    )


def run_in_order(snippets, name):
    torch.manual_seed(0)
    namespace: dict[str, object] = {}
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), namespace)


@pytest.mark.parametrize(("page", "number"), SNIPPETS)
def test_a_snippet_runs_by_itself_as_a_user_has_it(page, number, tmp_path):
    snippet = snippets_of(page)[number]
    if ".cuda()" in snippet:
        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")
    elif "aoti_compile_and_package" in snippet:
        pytest.skip("tests/models/test_serving.py runs it, with the program in C++ that loads its package")
    if "import onnxruntime" in snippet:
        for library in ("onnxruntime", "onnxscript"):
            pytest.importorskip(library)
    if "torch.compile(" in snippet and shutil.which("g++") is None:
        pytest.skip("torch.compile needs a C++ compiler here")
    libraries = [name for name in ("torchvision", "timm") if re.search(rf"^import {name}$", snippet, re.MULTILINE)]
    if libraries and (failed := as_a_user(f"import {', '.join(libraries)}")).returncode:
        pytest.skip(f"{' and '.join(libraries)} cannot be imported here: {failed.stderr.strip().splitlines()[-1]}")
    done = as_a_user(snippet, tmp_path)
    assert done.returncode == 0, done.stderr


def test_snippets_of_models_run():
    """Where torchvision's library does not load too: with the operators that its import wants made up."""
    for library in ("torchvision", "timm"):
        pytest.importorskip(library)
    assert len(OF_MODELS) == 3
    run_in_order(OF_MODELS, "snippets of models")


IN_ORDER = [name_of(path) for path in PAGES if snippets_of(path) and name_of(path) not in BY_THEMSELVES]


@pytest.mark.parametrize("page", IN_ORDER)
def test_snippets_of_a_page_run_in_order_as_a_user_has_them(page):
    done = as_a_user("\n".join(snippets_of(page)))
    assert done.returncode == 0, done.stderr


def without_code(path):
    return re.sub(r"```.*?```", "", path.read_text(encoding="utf-8"), flags=re.DOTALL)


def anchors_of(path):
    """Make the anchors of a page's headings, as GitHub and the site do."""
    headings = re.findall(r"^#+ (.*)$", without_code(path), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", [name_of(path) for path in PAGES])
def test_links_lead_to_files_and_headings_that_exist(page):
    path = ROOT / page
    for target in re.findall(r"\]\((?!https?:)([^)\s]+)\)", without_code(path)):
        file, _, anchor = target.partition("#")
        linked = (path.parent / file).resolve() if file else path
        assert linked.is_file(), target
        assert linked.is_relative_to(ROOT), target
        assert not anchor or anchor in anchors_of(linked), target


def test_every_page_can_be_reached_from_the_readme():
    seen, waiting = set(), [ROOT / "README.md"]
    while waiting:
        path = waiting.pop()
        seen.add(path)
        targets = re.findall(r"\]\((?!https?:)([^)\s#]+\.md)[)#]", path.read_text(encoding="utf-8"))
        waiting += {(path.parent / target).resolve() for target in targets} - seen
    assert set(PAGES) <= seen, sorted(map(name_of, set(PAGES) - seen))


def test_lines_of_prose_are_short_and_the_readme_is_one_page():
    """Rows of tables may be longer, and so may the report, which a command has written."""
    for path in PAGES:
        lines = path.read_text(encoding="utf-8").splitlines()
        if path.name != "report.md":
            for number, line in enumerate(lines, start=1):
                assert len(line) <= 120 or line.startswith("|"), f"{name_of(path)}:{number}"
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 120


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
    "gcp_kernels/integrations/backbone.py": "torchvision",
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
