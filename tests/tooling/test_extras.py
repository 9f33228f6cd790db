"""What messages and documents tell a user to install can be installed: from the checkout, by extras that there are."""

import re
from pathlib import Path

import pytest

from gcp_kernels.extras import how_to_install

tomllib = pytest.importorskip("tomllib", reason="Python 3.10 cannot read pyproject.toml")

ROOT = Path(__file__).parents[2]
EXTRAS = set(tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"])
SAID = {
    path: path.read_text("utf-8")
    for folder in ("gcp_kernels", "benchmarks", "experiments", "docs", ".")
    for path in ((ROOT / folder).glob("*") if folder == "." else (ROOT / folder).rglob("*"))
    if path.suffix in (".py", ".md", ".sh") or path.name == "Makefile"
}


def test_no_index_is_asked_for_this_package():
    assert ROOT / "README.md" in SAID
    for path, text in SAID.items():
        assert not re.search(r"gcp-kernels\[|pip install [^.\n]*gcp-kernels", text), path


def test_extras_that_are_named_exist():
    named = {
        extra
        for text in SAID.values()
        for found in (*re.findall(r"how_to_install\(([^)]*)\)", text), *re.findall(r'"\.\[([^\]]+)\]"', text))
        for extra in re.findall(r"[a-z]+", found)
        if "*" not in found
    }
    assert {"demo", "models"} <= named <= EXTRAS | {"extras", "join"}
    assert how_to_install("demo", "models").startswith(
        'pip install --no-build-isolation --editable ".[demo,models]" in '
    )
