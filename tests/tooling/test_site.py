"""The site of the documentation: nothing public is missing from it, it builds without a warning, and it is whole.

What needs mkdocs is skipped where the extra "docs" is not installed.
"""

import importlib
import inspect
import os
import re
import subprocess
import sys
from collections import Counter
from importlib.util import find_spec
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
MODULES = ("", ".nn", ".models", ".analysis", ".integrations", ".compat", ".compat.mpncov", ".export", ".reference")
REFERENCE = {path.stem: path.read_text(encoding="utf-8") for path in (DOCS / "reference").glob("*.md")}
# A function whose module has its name too is documented by way of the module.
DOCUMENTED = Counter(
    re.sub(r"\.(\w+)\.\1$", r".\1", name)
    for text in REFERENCE.values()
    for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)
)


def public_names(module):
    """List what a module offers: what is in ``__all__``, or defined in it."""
    if hasattr(module, "__all__"):
        return [name for name in module.__all__ if not inspect.ismodule(getattr(module, name))]
    own = inspect.getmembers(module, lambda member: getattr(member, "__module__", None) == module.__name__)
    return [name for name, _ in own if not name.startswith("_")]


def test_the_reference_has_every_public_name_once():
    expected = {
        f"gcp_kernels{module}.{name}"
        for module in MODULES
        for name in public_names(importlib.import_module(f"gcp_kernels{module}"))
    }
    expected.remove("gcp_kernels.__version__")
    assert "gcp_kernels.__version__" in REFERENCE["index"]
    assert len(expected) > 50
    assert dict.fromkeys(expected, 1) == DOCUMENTED


def test_functional_offers_what_the_package_offers():
    package, functional = (importlib.import_module(name) for name in ("gcp_kernels", "gcp_kernels.functional"))
    assert set(functional.__all__) == set(package.__all__) - {"__version__"} - {
        module[1:] for module in MODULES if module
    }


def test_everything_in_the_reference_has_a_docstring():
    for name in DOCUMENTED:
        module, _, attribute = name.rpartition(".")
        documented = getattr(importlib.import_module(module), attribute)
        if inspect.isroutine(documented) or inspect.isclass(documented):
            assert documented.__doc__, name
        else:
            assert has_attribute_docstring(name), name


def has_attribute_docstring(name):
    """Say whether a string follows the assignment in one of the module's files, which is how an attribute has one."""
    module, _, attribute = name.rpartition(".")
    folder = Path(importlib.import_module(module).__file__).parent
    return any(
        re.search(rf'^{attribute} = .*\n"""', path.read_text(encoding="utf-8"), re.MULTILINE)
        for path in folder.glob("*.py")
    )


def test_every_page_is_in_the_navigation():
    navigation = set(re.findall(r"^ +- .*?([\w/.-]+\.md)$", (ROOT / "mkdocs.yml").read_text("utf-8"), re.MULTILINE))
    pages = {path.relative_to(DOCS).as_posix() for path in DOCS.rglob("*.md")}
    assert pages <= navigation, pages - navigation
    for page in navigation - pages - {"index.md", "changelog.md", "contributing.md"}:
        assert (ROOT / page).is_file(), page


@pytest.fixture(scope="module")
def site(tmp_path_factory):
    """Build the site strictly, as `make docs` does, elsewhere."""
    for module in ("mkdocs", "mkdocstrings", "math_core", "ziamath"):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed (extra: docs)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(folder)]
    quiet = {**os.environ, "NO_MKDOCS_2_WARNING": "1"}
    done = subprocess.run(command, cwd=ROOT, env=quiet, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    return {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}


def html_of(site):
    return {name: path.read_text(encoding="utf-8") for name, path in site.items() if name.endswith(".html")}


def test_the_site_loads_nothing_from_elsewhere(site):
    loaded = (
        r'<(?:script|img|iframe)[^>]*\bsrc="?(https?:[^" >]+)|<link[^>]*rel="?stylesheet"?[^>]*href="?(https?:[^" >]+)'
    )
    for name, text in html_of(site).items():
        assert not re.findall(loaded, text), name
    assert any(name.endswith("STIXTwoMath-Regular.ttf") for name in site)


def test_formulas_and_roles_are_converted(site):
    pages = html_of(site)
    for name, text in pages.items():
        assert "arithmatex" not in text, name
        assert not re.search(r":(?:func|class|meth|attr|mod|data):", text), name
    assert pages["mathematics/index.html"].count("<math") > 150
    assert pages["precision/index.html"].count("<math") >= 10
    # No formula is left as its source: a dollar on either side of a letter.
    assert not re.search(
        r"\$[A-Za-z\\(]", re.sub(r"<(pre|code).*?</\1>", "", pages["mathematics/index.html"], flags=re.S)
    )


def test_links_lead_somewhere(site):
    pages = html_of(site)
    checked = 0
    for name, text in pages.items():
        if name == "404.html":
            continue
        for target in re.findall(r'\b(?:href|src)="([^":]+)"', text):
            path, _, anchor = target.partition("#")
            place = os.path.normpath(os.path.join(os.path.dirname(name), path)) if path else name
            place = place if place in site else os.path.normpath(os.path.join(place, "index.html"))
            assert place in site, (name, target)
            assert not anchor or place not in pages or f'id="{anchor}"' in pages[place], (name, target)
            checked += 1
    assert checked > 1000


def test_examples_of_docstrings_are_code(site):
    pages = html_of(site)
    for name, text in pages.items():
        if name.startswith("reference/"):
            assert "<blockquote>" not in text, name
    assert "torch.Size([4, 2080])" in re.sub(r"<[^>]*>", "", pages["reference/functions/index.html"])


def test_the_versions_that_build_it_are_pinned():
    (extra,) = re.findall(r"^docs = \[(.*?)\]$", (ROOT / "pyproject.toml").read_text("utf-8"), re.MULTILINE | re.DOTALL)
    requirements = re.findall(r'"(.*?)"', extra)
    assert len(requirements) > 8
    assert all(re.fullmatch(r"[\w-]+==[\d.]+", requirement) for requirement in requirements)
