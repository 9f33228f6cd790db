"""What services and tools read of the checkout says the same as pyproject.toml, and has no logic of its own."""

import re
from pathlib import Path

import pytest

pytestmark = pytest.mark.same_without_gpu

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))

if not (ROOT / "CITATION.cff").is_file():
    pytest.skip("needs the checkout", allow_module_level=True)


def text_of(name):
    return (ROOT / name).read_text(encoding="utf-8")


def value(pattern, name):
    (found,) = re.findall(pattern, text_of(name), re.MULTILINE)
    return found


@pytest.mark.parametrize("field", ["version", "license"])
def test_the_citation_is_of_this_version(field):
    assert value(rf"^{field}: (\S+)$", "CITATION.cff") == value(rf'^{field} = "(.+)"$', "pyproject.toml")


def test_the_citation_has_the_papers_of_the_documentation():
    """Title by title, as docs/papers.md lists them."""
    listed = re.findall(r"\*(.+?)\*", text_of("docs/papers.md").partition("## Citing")[2], re.DOTALL)
    titles = {" ".join(title.split()).removesuffix(".") for title in listed}
    found = re.findall(r"^    title: \"?(.*?)\"?$", text_of("CITATION.cff"), re.MULTILINE)
    assert len(found) == len(titles) == 6
    assert set(found) == titles
    assert value(r"^abstract: (.*)$", "CITATION.cff") == value(r'^description = "(.*)"$', "pyproject.toml")


def test_workflows_call_what_anyone_can_call():
    assert [path.name for path in WORKFLOWS] == ["ci.yml", "weekly.yml", "wheel.yml"]
    commands = [re.findall(r"^ +- run: (.*)$", path.read_text(encoding="utf-8"), re.MULTILINE) for path in WORKFLOWS]
    assert commands == [["bash .ci/run"], ["make test-all mutation"], ["make wheel"]]
    for path in WORKFLOWS:
        assert "contents: read" in path.read_text(encoding="utf-8")
        assert "secrets" not in path.read_text(encoding="utf-8")


def test_hooks_take_the_tools_of_the_environment():
    """Their versions are in pyproject.toml, and there alone."""
    hooks = text_of(".pre-commit-config.yaml")
    assert re.findall(r"^  - repo: (\S+)$", hooks, re.MULTILINE) == ["local"]
    assert set(re.findall(r"language: (\S+)", hooks)) == {"system"}
    assert "rev:" not in hooks
    tools = {entry.split()[0] for entry in re.findall(r"entry: (.*)$", hooks, re.MULTILINE)}
    assert tools == set(re.findall(r"\$\(VENV\)/bin/(ruff|mypy|clang-format)", text_of("Makefile")))


def test_issues_ask_for_what_info_says():
    forms = [path for path in (ROOT / ".github" / "ISSUE_TEMPLATE").glob("*.yml") if path.name != "config.yml"]
    assert len(forms) == 3
    for form in forms:
        assert "gcp-kernels info" in form.read_text(encoding="utf-8"), form.name
