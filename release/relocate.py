"""Rewrite a module of the package so that it works under any package name, beside an installed copy.

The ``kernels`` library imports a package under a name of its own, several versions of it in one process. So imports of
the package by its name become relative, and the operators get a library of their own.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

PACKAGE = "gcp_kernels"
# Of functions that take the name of a module; a relative one has a dot in front.
BY_NAME = {"__import__", "find_spec", "import_module"}


def relocate(source: str, parents: tuple[str, ...], library: str) -> str:
    """Return ``source`` with relative imports, and operators in ``library``.

    Comments, docstrings and messages stay as they are.

    Args:
        source: of a module of the package.
        parents: the packages that the module is in, ``("gcp_kernels", "ops")`` for ``gcp_kernels/ops/library.py``, and
            for ``gcp_kernels/ops/__init__.py`` as well.
        library: the name that takes the place of "gcp_kernels" as namespace of operators.

    Raises:
        ValueError: the module names the package in a way that cannot be rewritten; the message has the line.
    """
    encoded = source.encode()
    begins = [0]
    for text in encoded.splitlines(keepends=True):
        begins.append(begins[-1] + len(text))
    edits: list[tuple[int, int, str]] = []
    for node in ast.walk(ast.parse(source)):
        for where, old, new in _changes(node, parents, library):
            # Columns are those of UTF-8.
            start = encoded.find(old.encode(), begins[where.lineno - 1] + where.col_offset)
            end = begins[(where.end_lineno or where.lineno) - 1] + (where.end_col_offset or 0)
            if not 0 <= start < end:
                raise ValueError(f"line {where.lineno}: {old!r} is not written in one piece; write it so")
            edits.append((start, start + len(old.encode()), new))
    for start, end, new in sorted(edits, reverse=True):
        encoded = encoded[:start] + new.encode() + encoded[end:]
    return encoded.decode()


def _changes(node: ast.AST, parents: tuple[str, ...], library: str) -> Iterator[tuple[ast.stmt | ast.expr, str, str]]:
    """Give the part of the node that has the old text first at the place in question, the old text and the new one."""
    match node:
        case ast.ImportFrom(level=0, module=str(module)) if _in_package(module):
            yield node, module, "." * len(parents) + module[len(PACKAGE) + 1 :]
        case ast.Import(names=names):
            for name in names:
                if _in_package(name.name):
                    raise ValueError(f"line {node.lineno}: import {name.name}; write it as from {PACKAGE} import ...")
        case ast.Attribute(attr=attribute, value=ast.Attribute(attr="ops", value=ast.Name(id="torch"))):
            if attribute == PACKAGE:
                yield node, PACKAGE, library
        case ast.Call(args=[ast.Constant(value=str(name)) as argument, *_]):
            function = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", None)
            if function == "Library" and name == PACKAGE:
                yield argument, PACKAGE, library
            elif function in BY_NAME and _in_package(name):
                raise ValueError(f"line {node.lineno}: {function}({name!r}); name the module relative to __package__")
        case ast.Constant(value=str(text)) if text.startswith(f"{PACKAGE}::"):
            yield node, f"{PACKAGE}::", f"{library}::"


def _in_package(module: str) -> bool:
    return module == PACKAGE or module.startswith(f"{PACKAGE}.")
