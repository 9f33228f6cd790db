"""The reproduction on a GPU: networks of both kinds of convolutions, and how many runs share it changes none."""

from math import isfinite

import pytest
import torch

from experiments.commands import reproduce
from tests.support.reproduce_command import TABLES, parse, read

pytestmark = pytest.mark.gpu

NETWORKS = ("cnn", "mobilenetv2")
FLAGS = ("--check", "--networks", *NETWORKS, "--seeds", "1", "--device", "cuda")


def test_runs_are_the_same_alone_and_side_by_side(tmp_path):
    for module in ("sklearn", "tqdm", "matplotlib"):
        pytest.importorskip(module, reason=f"{module} is not installed (extra: demo)")
    alone, side_by_side = (tmp_path / name for name in ("alone", "side by side"))
    for folder, jobs in ((alone, "1"), (side_by_side, "4")):
        assert reproduce.run(parse(*FLAGS, "--jobs", jobs, "--output", str(folder))) == 0
    for table in TABLES:
        assert (alone / table).read_bytes() == (side_by_side / table).read_bytes(), table
    figures = read(alone / "flatness.csv")
    assert {(row["network"], row["pool"]) for row in figures} == {
        (network, pool) for network in NETWORKS for pool in ("avg", "gcp", "dropcov")
    }
    assert all(isfinite(float(row["eigenvalue"])) and float(row["eigenvalue"]) != 0 for row in figures)
    report = (side_by_side / "report.md").read_text(encoding="utf-8")
    assert f"{torch.cuda.get_device_name()}\n" in report
    assert "at a time on the GPU" in report
    assert "on one thread" not in report
