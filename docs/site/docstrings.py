"""How the reference reads docstrings: their sections and roles, in the terms of griffe and of Markdown."""

import re
from functools import cache
from pathlib import Path
from typing import Any

import griffe

PAGES = Path(__file__).parent.parent / "reference"
ROLE = re.compile(r":(?:func|class|meth|attr|data|exc|mod):`~?([^`]+)`")


class Docstrings(griffe.Extension):
    """Rewrite every docstring as it is loaded."""

    def on_object(self, *, obj: griffe.Object, **kwargs: Any) -> None:
        """Name the section of doctests as griffe's parser does, and turn roles into links."""
        if obj.docstring is not None:
            text = re.sub(r"^(\s*)Example:$", r"\1Examples:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = ROLE.sub(link, text)


def link(role: re.Match[str]) -> str:
    """Link to what a page of the reference documents; the rest is code."""
    name, known = role[1].rpartition(".")[2], documented()
    target = role[1] if role[1] in known.values() else known.get(name)
    return f"[`{name}`][{target}]" if target else f"`{role[1]}`"


@cache
def documented() -> dict[str, str]:
    """Find what the pages of the reference document, by the last part of its name."""
    texts = [page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md"))]
    names = [name for text in texts for name in re.findall(r"^::: (\S+)$", text, re.MULTILINE)]
    # Of a function and its reference of the same name, which comes first, the function.
    return {name.rpartition(".")[2]: name for name in sorted(names, key=lambda name: ".reference." not in name)}
