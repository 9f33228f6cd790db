"""The layering, file sizes and language of the package, read from its sources."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "gcp_kernels"
MODULES = sorted(PACKAGE.rglob("*.py"))
SOURCES = sorted(
    path
    for folder in ("gcp_kernels", "csrc", "benchmarks", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"} and path.name != "_build_info.py"
)

# A layer may import itself and those after it: reproduction -> training -> analysis -> models -> integrations -> nn ->
# functional -> ops -> backends; the last are shared by all.
LAYERS = (
    "__main__",
    "commands",
    "reproduction",
    "training",
    "analysis",
    "models",
    "integrations",
    "nn",
    "functional",
    "ops",
    "backends",
    "reference",
    "wrappers",
    "checkpoint_file",
    "extras",
    "eigenvalues",
    "transforms",
    "validation",
    "shapes",
    "precision",
    "matmul_setting",
)


def layer_of(path: Path) -> str:
    return path.relative_to(PACKAGE).with_suffix("").parts[0]


def imported_modules(path: Path) -> set[str]:
    """Absolute names of everything that a module imports, also inside functions."""
    parents = path.relative_to(ROOT).with_suffix("").parts[:-1]
    names = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            base = parents[: len(parents) - node.level + 1] if node.level else ()
            module = ".".join((*base, *([node.module] if node.module else [])))
            names |= {module, *(f"{module}.{alias.name}" for alias in node.names)}
    return names


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_imports_no_layer_above_its_own(path):
    layer = layer_of(path)
    if layer in ("__init__", "_build_info"):
        pytest.skip("the public face of the package, or written by the build")
    assert layer in LAYERS, f"{layer} has no place in the layering; give it one here"
    for name in imported_modules(path):
        parts = name.split(".")
        if parts[0] == "gcp_kernels" and len(parts) > 1 and parts[1] in LAYERS:
            assert LAYERS.index(parts[1]) >= LAYERS.index(layer), f"{path.name} ({layer}) imports {name}"


def test_reference_imports_only_torch_and_its_functions_of_eigenvalues():
    names = imported_modules(PACKAGE / "reference.py")
    own = {name for name in names if name.startswith("gcp_kernels.")}
    assert own == {"gcp_kernels.eigenvalues", "gcp_kernels.eigenvalues.function_of_eigenvalues"}
    assert {name.split(".")[0] for name in names - own} == {"torch"}


def test_backends_do_not_know_each_other():
    for path in sorted((PACKAGE / "backends").rglob("*.py")):
        own = path.relative_to(PACKAGE / "backends").parts[0]
        for name in imported_modules(path):
            match = re.match(r"gcp_kernels\.backends\.(torch|triton|cuda)\b", name)
            if match and own != "__init__.py":
                assert match[1] == own, f"{path.relative_to(ROOT)} imports {name}"


def test_kernels_know_no_torch():
    device = {*(ROOT / "csrc" / "device").iterdir(), *(ROOT / "csrc").rglob("*.cu*")}
    assert device
    for path in sorted(device):
        assert not re.search(r"#include\s*[<\"](torch|ATen|c10)", path.read_text(encoding="utf-8")), path.name


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_stays_under_400_lines(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 400


def test_no_module_is_named_for_nothing():
    for path in SOURCES:
        assert not {"utils", "helpers", "misc", "common"} & set(path.with_suffix("").parts), path
