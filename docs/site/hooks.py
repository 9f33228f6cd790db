"""What turns the repository's Markdown into a site: pages from outside docs/, links to sources, formulas.

The Markdown stays as it reads in the repository. README.md is the front page. A link to a result of a benchmark takes
the file along; the repository's other files are no part of the site, and a link to one becomes its path. Formulas are
converted to MathML, which browsers draw by themselves, so that the site loads no script and no font from elsewhere.
"""

import html
import importlib.util
import posixpath
import re
from pathlib import Path

from math_core import LatexToMathML
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

ROOT = Path(__file__).parent.parent.parent
# Pages that stand in the repository's root, and what they are on the site.
FROM_ROOT = {"README.md": "index.md", "CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md"}
# math_core converts the formulas. ziamath, which would draw them as pictures, brings the font.
FONT = Path(importlib.util.find_spec("ziamath").origin).parent / "fonts" / "STIXTwoMath-Regular.ttf"
TAKEN_ALONG = "benchmarks/results/"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|#)([^)#\s]+)(#[^)\s]*)?\)")
CODE = re.compile(r"(```.*?```)", re.DOTALL)
CELL = re.compile(r"<td.*?</td>", re.DOTALL)
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\[(\[](.*?)\\[)\]]</\1>', re.DOTALL)


def place_of(page: str) -> str:
    """Say where a page of the site stands in the repository."""
    names = {page: name for name, page in FROM_ROOT.items()}
    return names.get(page, page if page.startswith(TAKEN_ALONG) else f"docs/{page}")


def site_path(path: str) -> str | None:
    """Say where a file of the repository is on the site, None where it is not."""
    if path.startswith("docs/"):
        return path.removeprefix("docs/")
    return path if path.startswith(TAKEN_ALONG) else FROM_ROOT.get(path)


def linked(page: str, target: str) -> str:
    """Give the path in the repository that a link on a page of the site leads to."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(place_of(page)), target))


def on_files(files: Files, *, config: MkDocsConfig) -> Files:
    """Add the pages from the root, and results that a page links to, with those that they link to themselves."""
    for name, page in FROM_ROOT.items():
        files.append(File.generated(config, page, abs_src_path=str(ROOT / name)))
    files.append(File.generated(config, f"site/{FONT.name}", abs_src_path=str(FONT)))
    waiting = [file.src_uri for file in files.documentation_pages()]
    while waiting:
        page = waiting.pop()
        for link in LINK.finditer((ROOT / place_of(page)).read_text(encoding="utf-8")):
            path = linked(page, link[3])
            if path.startswith(TAKEN_ALONG) and files.get_file_from_path(path) is None:
                files.append(File.generated(config, path, abs_src_path=str(ROOT / path)))
                waiting += [path] if path.endswith(".md") else []
    return files


def on_page_markdown(markdown: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Lead the links of a page to where things are on the site."""
    source = page.file.src_uri

    def moved(link: re.Match[str]) -> str:
        picture, text, target, anchor = link.groups(default="")
        path = linked(source, target)
        place = site_path(path)
        if place is None:
            code = f"`{path}`"
            return code if text.strip("`") in (path, posixpath.basename(path)) else f"{text} ({code})"
        return f"{picture}[{text}]({posixpath.relpath(place, posixpath.dirname(source) or '.')}{anchor})"

    parts = CODE.split(markdown)
    parts[::2] = [LINK.sub(moved, part) for part in parts[::2]]
    return "".join(parts)


def on_page_content(content: str, *, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Convert formulas to MathML, and let long names in tables be broken behind a slash or an underscore."""
    converter = LatexToMathML(annotation=False)

    def formula(found: re.Match[str]) -> str:
        block = found[1] == "div"
        converted = converter.convert_with_local_state(html.unescape(found[2]).strip(), displaystyle=block)
        return f'<div class="formula">{converted}</div>' if block else converted

    def breakable(cell: re.Match[str]) -> str:
        return re.sub(r"<code>.*?</code>", lambda code: re.sub(r"(?<=\w)([/_])(?=\w)", r"\1<wbr>", code[0]), cell[0])

    return CELL.sub(breakable, FORMULA.sub(formula, content))
