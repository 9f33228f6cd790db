"""Normalisations, poolings and the numbers that belong to them: each is said once, and what reads it follows."""

import ast
import inspect
import io
import re
import tokenize
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

import gcp_kernels
from gcp_kernels import functional, integrations, models, reference
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance, normalization
from gcp_kernels.nn.normalization import (
    ALPHA,
    HEAD_NORMALIZATIONS,
    NORMALIZATIONS,
    Normalization,
    Option,
    options_of,
)
from gcp_kernels.nn.poolings import BASELINE, POOLINGS, PUBLISHED_POOLINGS
from gcp_kernels.precision import PRECISIONS, PROMISED_ERRORS

ROOT = Path(__file__).parents[2]
SOURCES = sorted(path for folder in ("gcp_kernels", "experiments") for path in (ROOT / folder).rglob("*.py"))


def test_the_names_that_users_write() -> None:
    """They stand in scripts and in saved runs, so that none may be lost; new ones come behind them."""
    assert tuple(NORMALIZATIONS)[:5] == ("isqrt", "none", "power", "log", "elementwise")
    assert tuple(HEAD_NORMALIZATIONS)[:2] == ("power", "none")
    assert tuple(POOLINGS)[:6] == ("avg", "gcp", "dropcov", "power", "elementwise", "none")
    assert {"gcp": "GCP", "dropcov": "DropCov"}.items() <= integrations.POOLS.items()
    dims = {name: pooling.published_dim for name, pooling in PUBLISHED_POOLINGS.items()}
    assert {"gcp": 256, "dropcov": 128}.items() <= dims.items()
    for registry in (NORMALIZATIONS, HEAD_NORMALIZATIONS, POOLINGS):
        assert [one.name for one in registry.values()] == list(registry)


@pytest.mark.parametrize("name", POOLINGS)
def test_a_pooling_is_built_from_its_entry(name: str) -> None:
    pooling = POOLINGS[name]
    layer = pooling.build(6).eval()
    assert type(layer) is pooling.layer
    assert layer(torch.randn(2, 6, 3, 3)).shape == (2, layer.out_features)
    assert not list(layer.parameters()) or isinstance(layer, DropCov)
    if isinstance(layer, GCP):
        assert layer.normalization == pooling.options.get("normalization", "isqrt")
    assert pooling.network == BASELINE or POOLINGS[pooling.network].layer is pooling.layer
    assert f'"{pooling.network}"' in models.resnet50.__doc__
    assert len({other.label for other in POOLINGS.values()}) == len(POOLINGS)


def literals(path: Path) -> set[str]:
    """List the strings in the code of a module, docstrings left out."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return {node.value for node in ast.walk(tree) if isinstance(node, ast.Constant) and isinstance(node.value, str)}


@pytest.mark.parametrize(
    ("name", "places"),
    [
        ("isqrt", {"gcp.py", "normalization.py"}),
        ("elementwise", {"normalization.py", "poolings.py"}),
        ("avg", {"poolings.py", "demo.py"}),  # the demo shows two of them
    ],
)
def test_a_name_stands_in_the_registries_alone(name: str, places: set[str]) -> None:
    found = {path.name for path in SOURCES if name in literals(path)}
    assert found <= places, "read the registry there"
    assert found & {"normalization.py", "poolings.py"}


@pytest.mark.parametrize("name", NORMALIZATIONS)
def test_the_layer_documents_every_normalization_and_has_its_option(name: str) -> None:
    documented = inspect.getdoc(GCP)
    assert f'- ``"{name}"``: ' in documented
    option = NORMALIZATIONS[name].option
    if option is not None:
        assert f"\n    {option.name}: of " in documented or f"{option.name}: Newton-Schulz" in documented
        assert inspect.signature(GCP).parameters[option.name].default == option.not_given


def shifted(x: Tensor, *, alpha: float, backend: str | None, output: str, **pooling: object) -> Tensor:
    """Add a number to the covariance, as a normalisation of a user might."""
    return gcp_kernels.covariance_pool(x, output=output, backend=backend, **pooling) + alpha


@pytest.mark.parametrize("shares_the_option", [True, False])
def test_a_new_normalization_needs_its_entry_alone(monkeypatch: pytest.MonkeyPatch, shares_the_option: bool) -> None:
    option = ALPHA if shares_the_option else None
    function: Callable[..., Tensor] = shifted if shares_the_option else gcp_kernels.covariance_pool
    monkeypatch.setitem(NORMALIZATIONS, "new", Normalization("new", function, option))
    x = torch.randn(2, 4, 9, dtype=torch.float64)
    layer = GCP(4, dim=None, normalization="new")
    assert torch.equal(layer(x), gcp_kernels.covariance_pool(x, output="triu") + 0.5 * shares_the_option)
    shown = ", alpha=0.5" if shares_the_option else ""
    assert repr(layer) == f"GCP(4, dim=None, normalization='new'{shown}, out_features=10)"
    with pytest.raises(ValueError, match=r"eps is an option of normalization='log'.*'new'"):
        GCP(4, normalization="new", eps=0.1)
    with pytest.raises(ValueError, match=r"alpha is an option of normalization='power'.*'log'"):
        GCP(4, normalization="log", alpha=0.1)
    with pytest.raises(ValueError, match=r"one of 'isqrt', .*, 'new'"):
        GCP(4, normalization="other")


def test_an_option_of_its_own_is_checked_and_has_its_default() -> None:
    def check(name: str, value: float) -> None:
        if value > 1:
            raise ValueError(f"{name} must be at most 1, got {value}")

    mine = {
        "plain": Normalization("plain", shifted),
        "one": Normalization("one", shifted, Option("beta", 0.25, check)),
    }
    assert options_of(mine, "one", beta=None) == options_of(mine, "plain", beta=None) == {"beta": 0.25}
    assert options_of(mine, "one", beta=0.25) == {"beta": 0.25}
    with pytest.raises(ValueError, match="beta must be at most 1, got 2"):
        options_of(mine, "one", beta=2)
    with pytest.raises(ValueError, match=r"beta is an option of normalization='one', got beta=0.25 with .*'plain'"):
        options_of(mine, "plain", beta=0.25)


TWINS = {"fused_gcp": reference.isqrt_pool} | {
    name: getattr(reference, name) for name in functional.__all__ if hasattr(reference, name)
}


@pytest.mark.parametrize("name", TWINS)
def test_a_function_and_its_reference_have_the_same_defaults(name: str) -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (getattr(functional, name), TWINS[name]))
    for argument in ours.keys() & theirs.keys():
        if theirs[argument].default is not inspect.Parameter.empty:
            assert ours[argument].default == theirs[argument].default, argument


def test_every_published_number_of_iterations_is_the_same() -> None:
    signatures = [inspect.signature(getattr(functional, name)).parameters for name in functional.__all__]
    found = {given["n_iter"].default for given in (*signatures, inspect.signature(GCP).parameters) if "n_iter" in given}
    assert found == {normalization.PUBLISHED_ITERATIONS} == {5}


def values_of(pattern: str, folder: str) -> set[int]:
    """Read a constant in the sources, wherever it is defined."""
    sources = [path for path in (ROOT / folder).rglob("*") if path.suffix in {".py", ".h", ".cuh", ".cu", ".cpp"}]
    found = (re.findall(pattern, path.read_text(encoding="utf-8"), re.MULTILINE) for path in sources)
    return {int(value) for values in found for value in values}


def test_python_and_cuda_agree_on_the_most_positions() -> None:
    (exponent,) = values_of(r"^MOST_POSITIONS = 2\*\*(\d+)$", "gcp_kernels")
    assert values_of(r"^constexpr int kMostPositions = 1 << (\d+);", "csrc") == {exponent}


def test_the_eigenvalues_that_count_as_zero_are_the_same_everywhere() -> None:
    (roundings,) = values_of(r"^ZERO_EIGENVALUE = (\d+)$", "gcp_kernels")
    assert f"up to {roundings} units of rounding of the largest" in functional.matrix_power.__doc__


def test_a_layer_has_the_defaults_of_the_functions_that_it_calls() -> None:
    layer, heads = GCP(4), MultiHeadCrossCovariance(4, 1, 2)
    defaults = {name: inspect.signature(getattr(functional, name)).parameters for name in functional.__all__}
    assert layer.n_iter == defaults["fused_gcp"]["n_iter"].default
    assert layer.alpha == defaults["matrix_power"]["alpha"].default
    assert layer.eps == defaults["matrix_log"]["eps"].default
    assert heads.alpha == defaults["singular_value_power"]["alpha"].default


def test_the_errors_that_are_promised_are_those_of_the_documentation() -> None:
    """Tests, benchmarks and the self-test compare with these numbers; what a user was promised is written out here."""
    assert PROMISED_ERRORS == {"fast": 2.5e-3, "high": 5e-6}
    assert tuple(PROMISED_ERRORS) == PRECISIONS
    page = (ROOT / "docs" / "precision.md").read_text(encoding="utf-8")
    assert '| `"high"` | float32-class products, error below 5e-6 |' in page
    assert re.search(r'^\| `"fast"` \| .* error at most 7e-4 as a rule and below 2\.5e-3; ', page, re.MULTILINE)
    assert "5e-6 for up to 6 iterations" in " ".join(functional.fused_gcp.__doc__.split())
    again = {"2.5e-3", "0.0025", "5e-6", "5e-06"}
    for path in (*SOURCES, *sorted((ROOT / "benchmarks").rglob("*.py")), *sorted((ROOT / "tests").rglob("*.py"))):
        if path.name not in ("precision.py", "test_registries.py", "test_sanitize.py"):
            numbers = {
                token.string
                for token in tokenize.generate_tokens(io.StringIO(path.read_text(encoding="utf-8")).readline)
                if token.type == tokenize.NUMBER
            }
            assert not numbers & again, f"{path.name}: read PROMISED_ERRORS"
