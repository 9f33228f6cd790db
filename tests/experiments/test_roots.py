"""The experiment on square roots: optimal cubics, the root they give, one small run, and what the report says."""

import csv
import json
import re
from dataclasses import replace
from math import inf
from statistics import fmean

import pytest
import torch
from torch import nn

from experiments.reproduction.runs import CHOOSE, MEASURE, Job
from experiments.roots import comparison
from experiments.roots.choice import common_rate
from experiments.roots.coefficients import Cubic, best_cubic, optimal_cubics
from experiments.roots.experiment import DISTANCES, root_figures
from experiments.roots.optimal_root import OptimalRoot, root_by_cubics
from experiments.roots.report import answer
from experiments.roots.roots import PUBLISHED, ROOTS
from experiments.roots.run import RUNS, run
from experiments.roots.settings import DEFAULTS, check, small
from experiments.training import NonFiniteLossError
from gcp_kernels.reference import newton_schulz_sqrt, triu_unvec
from tests.support.reproduction_runs import made_run

pytestmark = pytest.mark.same_without_gpu

NEWTON_SCHULZ = Cubic(1.5, 0.5, 1.0)
SMALLEST = 1e-3


@pytest.mark.parametrize(("low", "high"), [(1e-3, 1.0), (SMALLEST**0.5, 1.0), (0.2, 1.8), (0.9, 1.1), (2.0, 5.0)])
def test_the_best_cubic_equioscillates(low, high):
    """By Chebyshev's theorem it is the best one; the coefficients are those of an exchange algorithm on a grid."""
    cubic = best_cubic(low, high)
    x = torch.linspace(low, high, 200_001, dtype=torch.float64)
    between = (cubic.a / (3 * cubic.b)) ** 0.5
    assert low < between < high
    assert [1 - cubic(low), cubic(between) - 1, 1 - cubic(high)] == pytest.approx([cubic.error] * 3, rel=1e-9)
    assert (1 - cubic(x)).abs().max() <= cubic.error * (1 + 1e-9)
    points = torch.tensor([low, (low + high) / 2, high], dtype=torch.float64)
    for _ in range(50):
        columns = torch.stack([points, -(points**3), torch.tensor([1, -1, 1], dtype=torch.float64)], dim=1)
        a, b, error = torch.linalg.solve(columns, torch.ones(3, dtype=torch.float64))
        points[1] = x[(a * x - b * x**3 - 1).argmax()]
    assert (a.item(), b.item(), error.item()) == pytest.approx((cubic.a, cubic.b, cubic.error), rel=1e-6)


def test_steps_are_better_than_newton_schulz_and_become_it():
    cubics = optimal_cubics(SMALLEST**0.5, 10)
    values = torch.linspace(SMALLEST**0.5, 1, 100_001, dtype=torch.float64)
    ours, theirs = values, values
    for number, cubic in enumerate(cubics, 1):
        ours, theirs = cubic(ours), NEWTON_SCHULZ(theirs)
        error, theirs_error = (1 - ours).abs().max().item(), (1 - theirs).abs().max().item()
        assert error == pytest.approx(cubic.error, rel=1e-6, abs=1e-14)
        if number <= 8:
            assert error < 0.95 * theirs_error, "the smallest eigenvalue decides"
    assert (cubics[-1].a, cubics[-1].b) == pytest.approx((1.5, 0.5), rel=1e-6)
    for wrong in ((0.0, 1.0), (1.0, 1.0), (2.0, 1.0)):
        with pytest.raises(ValueError, match="an interval needs 0 < low < high, got"):
            best_cubic(*wrong)
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        optimal_cubics(0.1, 0)


def covariances(values):
    """Make matrices with these shares of the trace for eigenvalues, and with trace 1, 2, ..."""
    basis = torch.linalg.qr(torch.randn(3, len(values), len(values), dtype=torch.float64)).Q
    traces = torch.arange(1, 4, dtype=torch.float64)[:, None, None]
    return traces * (basis * values) @ basis.mT, basis, traces


def test_the_root_has_the_error_of_the_cubics_at_every_eigenvalue():
    """In float64, against an eigendecomposition: eigenvalues from far below the smallest to most of the trace."""
    values = torch.tensor([1e-6, 1e-4, SMALLEST, 3e-3, 0.03, 0.1, 0.2], dtype=torch.float64)
    values = torch.cat([values, 1 - values.sum()[None]])
    cov, basis, traces = covariances(values)
    for steps in (1, 2, 3, 5, 10):
        cubics = optimal_cubics(SMALLEST**0.5, steps)
        factors = values.sqrt()
        for cubic in cubics:
            factors = cubic(factors)
        expected = (traces.sqrt() * basis * (values.sqrt() * factors)) @ basis.mT
        torch.testing.assert_close(root_by_cubics(cov, cubics), expected, rtol=0, atol=1e-12)
    torch.testing.assert_close(root_by_cubics(cov, [NEWTON_SCHULZ] * 5), newton_schulz_sqrt(cov, 5), rtol=0, atol=1e-13)
    # Everything from the smallest on has converged after 10 steps; below, the absolute error is less than its root.
    exact = (traces.sqrt() * basis * values.sqrt()) @ basis.mT
    cubics = optimal_cubics(SMALLEST**0.5, 10)
    assert (root_by_cubics(cov, cubics) - exact).abs().max() < 1e-3 * 3**0.5


def test_the_layer_differentiates_and_gives_zeros_for_a_constant_sample():
    layer = OptimalRoot(3, steps=3)
    x = torch.randn(2, 3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, x)
    assert layer(x).shape == (2, layer.out_features)
    constant = torch.ones(2, 3, 2, 2, requires_grad=True)
    pooled = layer(constant)
    pooled.sum().backward()
    assert not pooled.any()
    assert not constant.grad.any()
    for smallest in (0.0, 1.0):
        with pytest.raises(ValueError, match=f"smallest must be between 0 and 1, got {smallest}"):
            OptimalRoot(3, steps=3, smallest=smallest)


def test_how_far_a_root_is_from_the_exact_one():
    """Against an eigendecomposition of the covariance that numpy's formula gives."""
    images = torch.randn(4, 8, 5, 5) * torch.tensor([0.01, 0.05, 0.1, 0.5, 1, 1, 2, 4])[:, None, None]
    errors = {}
    for name in ("n1", "n5", "exact", "optimal5", "optimal10"):
        network = nn.Sequential(nn.Identity(), ROOTS[name].build(8), nn.Linear(36, 2))
        found = root_figures(network, images)
        errors[name] = found["root_error"]
        distances, shares = [], []
        for image in images.double():
            values, vectors = torch.linalg.eigh(torch.cov(image.flatten(1), correction=0))
            exact = (vectors * values.sqrt()) @ vectors.mT
            root = triu_unvec(network[1](image[None].float()))[0].double()
            distances.append(((root - exact).norm() / exact.norm()).item())
            shares.append(values / values.sum())
        shares = torch.stack(shares)
        below = shares < SMALLEST
        assert found["root_error"] == pytest.approx(sum(distances) / 4, rel=1e-3, abs=1e-6)
        assert found["largest_eigenvalue"] == pytest.approx(shares[:, -1].mean().item())
        assert found["median_eigenvalue"] == pytest.approx(shares[:, 3].mean().item())
        assert found["eigenvalues_below"] == pytest.approx(below.double().mean().item())
        assert found["trace_below"] == pytest.approx((shares * below).sum(-1).mean().item())
        assert 0 < found["eigenvalues_below"] < 1
    assert errors["exact"] < errors["optimal10"] < errors["optimal5"] < errors["n5"] < errors["n1"]


def test_roots_are_compared_on_the_same_features():
    """Whatever root the network has; a multiple of the exact root is no distance from it when it is rescaled."""
    images = torch.randn(4, 8, 5, 5) * torch.tensor([0.01, 0.05, 0.1, 0.5, 1, 1, 2, 4])[:, None, None]
    roots = ("n1", "n5", "exact")
    networks = {name: nn.Sequential(nn.Identity(), ROOTS[name].build(8), nn.Linear(36, 2)) for name in roots}
    found = {name: root_figures(network, images, roots) for name, network in networks.items()}
    for name in roots:
        assert found[name][f"error_{name}"] == pytest.approx(found[name]["root_error"], rel=1e-6)
        for key in (f"{distance}_{root}" for distance in ("error", "rescaled", "norm") for root in roots):
            assert found[name][key] == pytest.approx(found["n5"][key], rel=1e-6)
    one = found["n5"]
    assert one["norm_exact"] == pytest.approx(1, abs=1e-5)
    assert one["norm_n1"] < one["norm_n5"] < 1
    assert one["rescaled_n1"] < one["error_n1"], "a part of the distance is the scale"
    exact, other = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    half = {name: function(exact / 2, exact) for name, function in DISTANCES.items()}
    assert half["error"].tolist() == pytest.approx([0.5] * 3)
    assert half["rescaled"].tolist() == pytest.approx([0] * 3, abs=1e-12)
    assert half["norm"].tolist() == pytest.approx([0.5] * 3)
    multiples = torch.linspace(-2, 2, 4001, dtype=torch.float64)[:, None, None, None]
    least = ((multiples * other - exact).norm(dim=(2, 3)) / exact.norm(dim=(1, 2))).amin(0)
    assert DISTANCES["rescaled"](other, exact).tolist() == pytest.approx(least.tolist(), rel=1e-5)


def test_all_roots_have_the_rate_that_suits_the_published_one():
    def chosen(accuracies, rate, seed=1000):
        return [
            replace(made_run(root, seed, accuracies=(accuracy,)), job=Job(CHOOSE, "cnn", root, seed, rate))
            for root, accuracy in zip(("n1", PUBLISHED, "exact"), accuracies, strict=True)
        ]

    def diverged(root, kind, rate):
        return replace(made_run(root, 0), job=Job(kind, "cnn", root, 0, rate), loss=inf)

    runs = [*chosen((99, 80, 85), 0.1), *chosen((70, 90, 60), 0.2), *chosen((75, 85, 99), 0.4)]
    assert common_rate(runs) == {("cnn", root): 0.2 for root in ("n1", PUBLISHED, "exact")}
    runs.append(diverged("exact", MEASURE, 0.2))
    assert set(common_rate(runs).values()) == {0.4}, "a rate is none where a root diverged, be it not the published"
    runs += [diverged("n1", CHOOSE, 0.1), diverged("n1", MEASURE, 0.4)]
    with pytest.raises(NonFiniteLossError, match="cnn: with every rate the training of some root diverged"):
        common_rate(runs)


def test_margins_for_all_comparisons_together():
    stats = pytest.importorskip("scipy.stats")
    accuracies = {PUBLISHED: [90.0, 91.0, 92.5], "n1": [91.0, 91.5, 93.0], "exact": [90.0, 92.0, 92.0]}
    every = comparison.verdicts({"accuracy": accuracies})
    for root, margin in comparison.margins_together(every, "accuracy").items():
        gains = torch.tensor(accuracies[root]) - torch.tensor(accuracies[PUBLISHED])
        low, high = stats.t.interval(1 - 0.05 / 2, 2, gains.mean().item(), stats.sem(gains))
        assert margin == pytest.approx((high - low) / 2)


def read(path):
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_a_small_run_writes_everything_and_goes_on_where_it_was(tmp_path):
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: demo)")
    settings = replace(
        check(DEFAULTS["digits"]), images=60, landscape_every=2, flatness_images=10, hessian_iterations=1,
        pools=("n1", "n5", "exact"),
    )  # fmt: skip
    said = []
    run(settings, tmp_path / "whole", said.append, jobs=1)
    tables = ("convergence.csv", "flatness.csv", "landscape.csv", "rates.csv", "roots.csv", "verdicts.csv")
    assert sorted(path.name for path in (tmp_path / "whole").iterdir()) == sorted(
        (*tables, "report.md", "roots.png", RUNS)
    )
    assert (tmp_path / "whole" / "roots.png").stat().st_size < 100_000
    roots = read(tmp_path / "whole" / "roots.csv")
    assert {(row["root"], row["seed"]) for row in roots} == {(root, seed) for root in settings.pools for seed in "01"}
    assert all(float(row["root_error"]) < 1e-3 for row in roots if row["root"] == "exact")
    assert all(float(row["root_error"]) > 1e-2 for row in roots if row["root"] == "n1")
    verdicts = read(tmp_path / "whole" / "verdicts.csv")
    assert len(verdicts) == 8 * (len(settings.pools) - 1)
    assert {row["outcome"] for row in verdicts} <= {"within the margin", "no number"}, "two seeds decide nothing"
    report = (tmp_path / "whole" / "report.md").read_text(encoding="utf-8")
    assert "From 2 seeds it cannot be said whether the better roots train better." in report
    assert "9 runs of one thread, gcp_kernels" in report
    last = [row for row in read(tmp_path / "whole" / "convergence.csv") if int(row["epoch"]) == settings.epochs]
    losses = [fmean(float(row["loss"]) for row in last if row["pool"] == root) for root in settings.pools]
    assert f"All roots are trained for {settings.epochs} epoch" in report
    found = re.search(r"in the last epoch is (\S+) \(.*?\) to (\S+) \(.*?\); guessing has 2\.3\.", report)
    least, most = found.groups()
    assert (float(least), float(most)) == pytest.approx((min(losses), max(losses)), rel=0.06)
    lines = (tmp_path / "whole" / RUNS).read_text(encoding="utf-8").splitlines(keepends=True)
    assert len(lines) == 1 + len(settings.pools) * (1 + 2)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / RUNS).write_text("".join(lines[:-2]) + lines[-2][:50], encoding="utf-8")
    said.clear()
    run(settings, tmp_path / "cut", said.append, jobs=1)
    assert [line.split(":")[0] for line in said if line.startswith(MEASURE)] == [
        json.loads(line)["key"] for line in lines[-2:]
    ]
    for name in tables:
        assert (tmp_path / "cut" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
    again = (tmp_path / "cut" / "report.md").read_text(encoding="utf-8")
    # How long runs took, and on which day they were made, is no part of what comes out.
    took = r"\d+ runs? of [\d.]+ minutes in all: .*"
    assert re.sub(took, "", again) == re.sub(took, "", report)
    assert len(re.findall(took, report)) == 1


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"pools": ("n5", "avg")}, "pools must be one of 'n1', .* got 'avg'"),
        ({"pools": ("n1", "exact")}, "pools must have 'n5' and another root"),
        ({"pools": ("n5",)}, "pools must have 'n5' and another root"),
        ({"networks": ("cnn", "cnn256")}, "networks must be one, got"),
    ],
)
def test_settings_without_a_comparison_are_refused(changed, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        run(replace(small(DEFAULTS["digits"]), **changed), tmp_path / "new", print)
    assert not (tmp_path / "new").exists()


ERRORS = {"n1": 0.5, PUBLISHED: 0.1, "n7": 0.02, "n10": 0.01, "exact": 0.0}


def answered(accuracies, seeds=3):
    """Write the answer to made-up accuracies, equal in everything else."""
    runs = [
        replace(
            made_run(root, seed, accuracies=(accuracies[root] + seed,)),
            others={"root_error": error, **{f"error_{other}": value for other, value in ERRORS.items()}},
        )
        for root, error in ERRORS.items()
        for seed in range(seeds)
    ]
    figures = comparison.figures_of(runs)
    return answer(figures, comparison.verdicts(figures))


def test_the_answer_follows_from_the_figures():
    same = dict.fromkeys(ERRORS, 90.0)
    text = answered(same)
    assert "with Newton-Schulz with N = 5, this root is 10 % from the exact one; nearer, with every seed: " in text
    assert "Newton-Schulz with N = 7 and 10; the exact root (3 of 4 others)." in text
    assert "The highest mean accuracy has Newton-Schulz with N = 5: 91.0 ± 1.0 %." in text
    assert (
        "The test accuracy is not beyond its margin from that of Newton-Schulz with N = 5 with any other root." in text
    )
    assert text.endswith(
        "So no better root is seen to train to another accuracy than the published one; a difference would be seen "
        "beyond 0.00 to 0.00 points, the margins for all 4 comparisons together."
    )
    text = answered({**same, "n1": 92.0})
    assert "The highest mean accuracy has Newton-Schulz with N = 1: 93.0 ± 1.0 % against 91.0 ± 1.0 %" in text
    assert "The test accuracy is, beyond its margin, higher with Newton-Schulz with N = 1." in text
    assert "So no better root is seen to train to another accuracy" in text, "N = 1 is no better root"
    text = answered({**same, "n7": 91.0, "exact": 92.0})
    together = "than the published one, beyond the margins for all 4 comparisons together"
    assert text.endswith(f"So 2 of the 3 better roots train to a higher accuracy {together}.")
    text = answered({**same, "n10": 89.0})
    assert text.endswith(f"So 1 of the 3 better roots train to a lower accuracy {together}.")
    text = answered({**same, "n10": 89.0, "exact": 92.0})
    assert "higher with the exact root and lower with Newton-Schulz with N = 10" in text
    assert text.endswith(f"to a lower accuracy {together}: nearness to the exact root does not decide it.")
    assert answered({**same, "exact": 92.0}, seeds=2).endswith(
        "From 2 seeds it cannot be said whether the better roots train better."
    )
