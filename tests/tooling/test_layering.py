"""The layering, file sizes and language of the sources, read from them: three rules of imports, and a few of form."""

import ast
import re
from collections import Counter
from functools import cache
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
PACKAGE = ROOT / "gcp_kernels"
OPS = PACKAGE / "ops"
BACKENDS = ("torch", "triton", "cuda")
SOURCES = sorted(
    path
    for folder in ("gcp_kernels", "csrc", "benchmarks", "experiments", "release", "tests")
    for path in (ROOT / folder).rglob("*")
    if path.suffix in {".py", ".cpp", ".h", ".cu", ".cuh"} and path.name != "_build_info.py"
)

# A layer imports itself and those after it.
LAYERS = (
    "experiments.__main__",
    "experiments.commands",
    "experiments.demo",
    "experiments.transfer",
    "experiments.pretrained",
    "experiments.roots",
    "experiments.reproduction",
    "experiments.training",
    "experiments.datasets",
    "experiments.running",
    "__main__",
    "commands",
    "analysis",
    "models",
    "integrations",
    "compat",
    "nn",
    "functional",
    "export",
    "ops",
    "reference",
    "wrappers",
    "checkpoint_file",
    "extras",
    "listing",
    "eigenvalues",
    "transforms",
    "validation",
    "precision",
    "matmul_setting",
    "architectures",
)


@cache
def imported_modules(path: Path) -> frozenset[str]:
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
    return frozenset(names)


def bound_names(path: Path) -> set[str]:
    """Names that a module's own ``import`` statements bind."""
    imports = [node for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))) if isinstance(node, ast.Import)]
    return {alias.asname or alias.name.split(".")[0] for node in imports for alias in node.names}


def modules(folder: Path) -> list[Path]:
    found = [path for path in sorted(folder.rglob("*.py")) if path.name != "_build_info.py"]
    assert found, folder
    return found


def layer_of(path: Path) -> str:
    first, second = path.relative_to(ROOT).with_suffix("").parts[:2]
    return second if first == "gcp_kernels" or second == "__init__" else f"{first}.{second}"


def backend_of(name: str) -> str | None:
    """Name the backend that a module of ``gcp_kernels.ops`` belongs to, by its absolute name."""
    match = re.match(rf"gcp_kernels\.ops\.(?:\w+\.)?({'|'.join(BACKENDS)})(?:_device)?(?:\.|$)", name)
    return match and match[1]


def test_a_module_imports_no_layer_above_its_own():
    wrong = []
    for path in [*modules(PACKAGE), *modules(ROOT / "experiments")]:
        layer = layer_of(path)
        if layer == "__init__":  # the public face of a package
            continue
        assert layer in LAYERS, f"{layer} has no place in the layering; give it one here"
        for name in imported_modules(path):
            first, *rest = name.split(".")
            other = ".".join(rest[:1] if first == "gcp_kernels" else [first, *rest[:1]])
            if other in LAYERS and LAYERS.index(other) < LAYERS.index(layer):
                wrong.append(f"{path.relative_to(ROOT)} ({layer}) imports {name}")
            if first in ("benchmarks", "tests"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_what_a_backend_runs_knows_no_other_backend():
    """Nor does what operations share on a backend know an operation, but to hash its kernels."""
    wrong = []
    for path in modules(OPS):
        own = backend_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
        for name in imported_modules(path):
            other = backend_of(name)
            if own and other and other != own:
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
            room = re.match(r"gcp_kernels\.ops\.(\w+)\.", f"{name}.")
            shared = path.parent.name.endswith("_device") and path.stem != "cache_keys"
            if shared and room and (OPS / room[1]).is_dir() and not room[1].endswith("_device"):
                wrong.append(f"{path.relative_to(ROOT)} imports {name}")
    assert not wrong


def test_what_is_optional_or_would_be_shadowed_is_imported_where_it_may_be():
    wrong = []
    for path in modules(PACKAGE):
        names, short = imported_modules(path), path.relative_to(ROOT)
        top = {name.split(".")[0] for name in names if not name.startswith("gcp_kernels")}
        if "triton" in top and backend_of(".".join(short.with_suffix("").parts)) != "triton":
            wrong.append(f"{short} imports triton, which is optional; a backend does when it is chosen")
        if path.name == "__init__.py" and (path.parent / "torch.py").exists() and "torch" in bound_names(path):
            wrong.append(f"{short} binds the name torch, which its own module torch.py takes when it is imported")
    assert not wrong
    names = imported_modules(PACKAGE / "reference.py")
    own = {name for name in names if name.startswith("gcp_kernels.")}
    assert own == {"gcp_kernels.eigenvalues", "gcp_kernels.eigenvalues.function_of_eigenvalues"}
    assert {name.split(".")[0] for name in names - own} == {"torch"}


def test_no_test_imports_a_test():
    """What tests share is in tests/support, which imports none either, and tests/mutation is a command."""
    rooms = {path.parent.name for path in (ROOT / "tests").glob("*/__init__.py")} - {"support", "mutation"}
    assert "kernels" in rooms
    wrong = [
        f"{path.relative_to(ROOT)} imports {name}"
        for path in modules(ROOT / "tests")
        for name in imported_modules(path)
        if re.match(rf"tests\.({'|'.join(rooms)})\b", name)
    ]
    assert not wrong


def test_what_needs_the_extension_is_marked_and_not_skipped_by_itself():
    """Else it would be in no tier of CI: `make test` has no extension, `make test-all` goes by the marker."""
    texts = {path: path.read_text(encoding="utf-8") for path in modules(ROOT / "tests")}
    assert sum("@built" in text for text in texts.values()) > 5
    assert [path.name for path, text in texts.items() if re.search(r"skipif\([^\n]*_loaded", text)] == []


def test_a_class_of_the_benchmarks_has_a_name_of_its_own():
    found = Counter(
        node.name
        for path in modules(ROOT / "benchmarks")
        for node in ast.parse(path.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ClassDef)
    )
    assert len(found) > 40
    assert [name for name, count in found.items() if count > 1] == []


def test_a_file_stays_under_400_lines():
    lengths = {str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines()) for path in SOURCES}
    assert len(lengths) > 300
    assert {name: length for name, length in lengths.items() if length > 400} == {}


def test_no_module_is_named_for_nothing():
    for path in SOURCES:
        assert not {"utils", "helpers", "misc", "common"} & set(path.with_suffix("").parts), path
