"""The modules of the package that have Triton kernels or device functions, as files."""

from pathlib import Path

ROOT = Path(__file__).parents[2]
SOURCES = sorted(
    path for path in (ROOT / "gcp_kernels" / "ops").rglob("*.py") if "\n@triton.jit" in path.read_text(encoding="utf-8")
)


def module_name(path: Path) -> str:
    """Give what a file is imported as."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def form_of(path: Path) -> str:
    """Give the form of launch that a module of kernels is for, as the static table names it."""
    name = path.parents[1].name.removesuffix("_pool") if path.stem == "kernels" else path.stem
    return name.replace("_", " ")
