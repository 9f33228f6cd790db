"""release.relocate: a module imports the same under another package name, and nothing else of it changes."""

import ast
from pathlib import Path

import pytest

from release.relocate import relocate

pytestmark = pytest.mark.same_without_gpu

PACKAGE = Path(__file__).parents[2] / "gcp_kernels"
ROOM = ("gcp_kernels", "ops", "isqrt_pool")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("from gcp_kernels import reference", "from ... import reference"),
        ("from gcp_kernels.ops.sides import Side as S", "from ...ops.sides import Side as S"),
        ("def f():\n    from gcp_kernels.precision import (\n        a,\n    )", None),
        ("from gcp_kernels_more import a", "from gcp_kernels_more import a"),
        ("from ..shapes import a  # not gcp_kernels.ops", "from ..shapes import a  # not gcp_kernels.ops"),
        ('"""é of gcp_kernels"""; from gcp_kernels.x import y', '"""é of gcp_kernels"""; from ...x import y'),
        ('L = torch.library.Library("gcp_kernels", "DEF")', 'L = torch.library.Library("own", "DEF")'),
        ("torch.ops.gcp_kernels.isqrt_pool.default(x)", "torch.ops.own.isqrt_pool.default(x)"),
        ("torch.ops.gcp_kernels_cuda.device_error(0)", "torch.ops.gcp_kernels_cuda.device_error(0)"),
        ('names = ("gcp_kernels::a", "see gcp_kernels::a")', 'names = ("own::a", "see gcp_kernels::a")'),
        ('f(f"gcp_kernels::{name}")', 'f(f"own::{name}")'),
        ('print("gcp_kernels", version)', 'print("gcp_kernels", version)'),
        ('import_module("..._C", __package__)', 'import_module("..._C", __package__)'),
    ],
)
def test_names_of_the_package_are_rewritten_where_they_are_code(source, expected):
    expected = source.replace("gcp_kernels.", "...") if expected is None else expected
    assert relocate(source, ROOM, "own") == expected


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("\nimport gcp_kernels", "line 2: import gcp_kernels; write it as from gcp_kernels import"),
        ("import gcp_kernels.nn as nn", r"line 1: import gcp_kernels\.nn;"),
        ('importlib.import_module("gcp_kernels._C")', r"line 1: import_module\('gcp_kernels\._C'\); name the module"),
        ("from gcp_kernels . precision import a", "line 1: 'gcp_kernels.precision' is not written in one piece"),
    ],
)
def test_what_cannot_be_rewritten_is_refused(source, message):
    with pytest.raises(ValueError, match=message):
        relocate(source, ROOM, "own")


def test_every_module_of_the_package_imports_what_it_imported():
    """Absolute names of all imports, before and after; and the rest of the module is the same text."""
    rewritten = 0
    for path in sorted(PACKAGE.rglob("*.py")):
        if path.name == "_build_info.py":
            continue
        source = path.read_text(encoding="utf-8")
        parents = ("gcp_kernels", *path.relative_to(PACKAGE).parent.parts)
        result = relocate(source, parents, "gcp_kernels")
        assert absolute_imports(source, parents) == absolute_imports(result, parents), path
        assert not any(module.startswith("gcp_kernels") for module in unresolved_imports(result)), path
        before, after = source.splitlines(), result.splitlines()
        changed = [line for line, other in zip(before, after, strict=True) if line != other]
        assert all(line.lstrip().startswith("from gcp_kernels") for line in changed), path
        rewritten += len(changed)
    assert rewritten > 50


def absolute_imports(source: str, parents: tuple[str, ...]) -> list[tuple[str, str]]:
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            found += [(module, alias.name) for alias in node.names]
    return found


def unresolved_imports(source: str) -> list[str]:
    nodes = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.ImportFrom)]
    return [node.module or "" for node in nodes if not node.level]
