"""The demo command: it trains, draws, repeats itself, refuses bad arguments, and concludes truly."""

import argparse
import json
import re

import pytest
import torch

from experiments.commands import demo, demo_extra
from experiments.demo import picture, timing
from experiments.training import Epoch

pytestmark = pytest.mark.same_without_gpu


def parse(*arguments):
    parser = argparse.ArgumentParser(prog="demo")
    demo.add_arguments(parser)
    return parser.parse_args(arguments)


def needs_training_packages():
    pytest.importorskip("sklearn", reason="scikit-learn is not installed (extra: demo)")
    pytest.importorskip("tqdm", reason="tqdm is not installed (extra: demo)")


def test_a_device_has_an_index(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert parse("--device", "cuda").device == torch.device("cuda", 0)
    assert parse("--device", "cuda:1").device == torch.device("cuda", 1)
    assert parse("--device", "cpu").device == torch.device("cpu")


@pytest.fixture
def no_timing(monkeypatch):
    monkeypatch.setitem(demo.TIMING_ROUNDS, "cpu", 1)


def table(text):
    return re.findall(r"^ +\d+ +\d+\.\d+ +\d+\.\d+ %.*$", text, flags=re.MULTILINE)


def test_one_epoch_end_to_end(tmp_path, capsys, no_timing):
    needs_training_packages()
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    picture = tmp_path / "curves.png"
    assert demo.run(parse("--epochs", "1", "--device", "cpu", "--output", str(picture))) == 0
    out = capsys.readouterr().out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert picture.stat().st_size > 10_000
    assert len(table(out)) == 1
    assert "gcp_kernels.fused_gcp" in out
    assert "plain autograd" in out
    assert "not timed" not in out
    assert len(re.findall(r"^ +\d+\.\d+ \(\d+\.\d+ to \d+\.\d+\) ms ", out, re.MULTILINE)) >= 4
    assert "time to train one epoch: not said" in out
    accuracies = [float(value) for value in re.findall(r"(\d+\.\d+) %", table(out)[0])]
    assert out.strip().endswith(demo.verdict(accuracies[:1], accuracies[1:]))


@pytest.mark.thorough
def test_same_seed_same_numbers_other_seed_others(capsys, no_timing):
    needs_training_packages()
    tables = []
    torch.manual_seed(7)
    before = torch.get_rng_state()
    for seed in ("3", "3", "4"):
        assert demo.run(parse("--epochs", "1", "--seed", seed, "--device", "cpu", "--no-plot")) == 0
        tables.append(table(capsys.readouterr().out))
    assert len(tables[0]) == 1
    assert tables[0] == tables[1]
    assert tables[0] != tables[2]
    assert torch.equal(torch.get_rng_state(), before), "the demo leaves the global random state alone"


@pytest.mark.thorough
def test_a_record_has_the_settings_and_the_accuracies_that_were_printed(tmp_path, capsys, no_timing):
    needs_training_packages()
    record, printed = tmp_path / "runs.jsonl", []
    for rate in ("0.003", "0.01"):
        arguments = ("--epochs", "2", "--seed", "5", "--lr", rate, "--device", "cpu", "--no-plot", "--record")
        assert demo.run(parse(*arguments, str(record))) == 0
        printed.append(table(capsys.readouterr().out))
    lines = [json.loads(line) for line in record.read_text("utf-8").splitlines()]
    assert [(line["seed"], line["lr"]) for line in lines] == [(5, 0.003), (5, 0.01)]
    assert all(line["torch"] == torch.__version__ for line in lines)
    for line, rows in zip(lines, printed, strict=True):
        pairs = list(zip(line["accuracy"]["avg"], line["accuracy"]["gcp"], strict=True))
        assert pairs == [tuple(map(float, re.findall(r"(\d+\.\d+) %", row))) for row in rows]
    assert printed[0] != printed[1], "the learning rate changes nothing"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--epochs", "0"), "at least 1, got '0'"),
        (("--epochs", "two"), "at least 1, got 'two'"),
        (("--batch-size", "-4"), "at least 1, got '-4'"),
        (("--seed", "-1"), "at least 0, got '-1'"),
        (("--seed", str(2**63)), "at least 0"),
        (("--lr", "0"), "above 0"),
        (("--device", "gpu"), "must be cpu, cuda or cuda:N, got 'gpu'"),
        (("--device", "meta"), "must be cpu, cuda or cuda:N, got 'meta'"),
        (("--device", "cuda:99"), "is not here"),
    ],
)
def test_bad_arguments_are_refused(arguments, message, capsys):
    with pytest.raises(SystemExit) as ending:
        parse(*arguments)
    assert ending.value.code == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("output", "message"),
    [
        ("nowhere/curves.png", "not an existing directory"),
        ("curves.doc", "must end in"),
        ("folder.png", "a directory"),
    ],
)
def test_unusable_output_is_refused_before_any_work(output, message, tmp_path, capsys, monkeypatch):
    (tmp_path / "folder.png").mkdir()
    monkeypatch.setattr(demo, "load_dataset", lambda *arguments: pytest.fail("work was started"))
    assert demo.run(parse("--output", str(tmp_path / output))) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert output in captured.err
    assert not captured.out


def test_a_record_without_a_folder_is_refused_before_any_work(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(demo, "load_dataset", lambda *arguments: pytest.fail("work was started"))
    assert demo.run(parse("--no-plot", "--record", str(tmp_path / "nowhere" / "runs.jsonl"))) == 2
    assert "nowhere is not an existing folder" in capsys.readouterr().err


def test_missing_packages_give_one_error_that_names_the_extra(capsys, monkeypatch):
    def absent(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(demo_extra.importlib, "import_module", absent)
    assert demo.run(parse("--no-plot")) == 1
    captured = capsys.readouterr()
    assert "scikit-learn, tqdm missing" in captured.err
    assert 'pip install --no-build-isolation --editable ".[demo]" in a checkout' in captured.err
    assert not captured.out


def test_an_absent_peer_is_said_to_be_absent(monkeypatch, capsys, no_timing):
    monkeypatch.setattr(timing.importlib.util, "find_spec", lambda name: None)
    assert demo.report_times(torch.rand(2, 8, 4, 4), torch.device("cpu"))
    assert "pytorchcv is not installed" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("average", "covariance", "sentences"),
    [
        (
            [90.0, 95.0, 96.0],
            [94.0, 97.0, 98.5],
            ["GCP wins by 2.50 points", "GCP reached average pooling's final accuracy in epoch 2 of 3",
             "average pooling never reached GCP's final accuracy in 3 epochs"],
        ),
        (
            [94.0, 98.0],
            [90.0, 97.0],
            ["GCP does not win: average pooling is ahead by 1.00 points", "GCP never reached average",
             "average pooling reached GCP's final accuracy in epoch 2 of 2"],
        ),
        (
            [98.5, 96.0],
            [97.0, 97.0],
            ["GCP wins by 1.00 points", "average pooling reached GCP's final accuracy in epoch 1 of 2"],
        ),
        ([97.0], [97.0], ["GCP does not win: it is a tie", "in epoch 1 of 1"]),
    ],
)  # fmt: skip
def test_verdict_says_what_the_numbers_say(average, covariance, sentences):
    verdict = demo.verdict(average, covariance)
    for sentence in sentences:
        assert sentence in verdict
    assert ("GCP wins" in verdict) == (covariance[-1] > average[-1])


def test_a_wrong_pool_is_reported_and_not_timed(monkeypatch):
    right = timing.pools()
    wrong = {**right, "wrong": lambda features: 1.001 * timing.plain_autograd(features)}
    monkeypatch.setattr(timing, "pools", lambda: wrong)
    rows = {row.name: row for row in timing.time_pool(torch.rand(2, 8, 4, 4), rounds=3)}
    assert rows["wrong"].milliseconds is None
    assert rows["wrong"].error == pytest.approx(1e-3, rel=0.01)
    assert rows["wrong"].ratio is None
    for name in right:
        for spread in (rows[name].milliseconds, rows[name].ratio):
            assert 0 < spread.low <= spread.median <= spread.high


def test_ratios_are_taken_within_a_round(monkeypatch):
    """A machine that is slower in some rounds slows both: the times spread, and their ratio does not."""
    passes = iter([seconds for slow in (1, 1, 1, 1, 2, 9, 3) for seconds in (slow, 2 * slow)])
    names = list(timing.pools())[:2]
    pools = dict.fromkeys(names, timing.plain_autograd)
    monkeypatch.setattr(timing, "pools", lambda: pools)
    monkeypatch.setattr(timing, "seconds_of_step", lambda *arguments: float(next(passes)))
    ours, other = timing.time_pool(torch.rand(2, 8, 4, 4), rounds=4)
    assert f"{ours.milliseconds:.0f}" == "2500 (1750 to 4500)"
    assert f"{other.ratio:.2f}" == "2.00 (2.00 to 2.00)"


def test_times_of_epochs_say_their_spread_or_are_left_out():
    """The first epoch is not among them."""
    said = demo.epoch_times({"avg": [9.0, 1.0, 1.0, 2.0, 3.0, 3.0], "gcp": [9.0, 4.0, 4.0, 4.0, 4.0, 4.0]})
    assert "2.00 (1.00 to 3.00) with average pooling, 4.00 (4.00 to 4.00) with GCP" in said
    assert "not said" in demo.epoch_times({"avg": [1.0] * 5, "gcp": [1.0] * 5})


def test_plot_formats(tmp_path):
    pytest.importorskip("matplotlib", reason="matplotlib is not installed (extra: demo)")
    curves = {"a": [Epoch(1.0, 50.0, 0.1)], "b": [Epoch(0.5, 99.0, 0.1)]}
    for suffix in picture.FORMATS:
        path = tmp_path / f"curves{suffix}"
        assert picture.plot_path_problem(path) is None
        picture.plot(curves, "title", path)
        assert path.stat().st_size > 1000
