"""Training in two processes: by torchrun, killed in one of them, with a share of the images each."""

import signal
import sys
from itertools import chain

import pytest
import torch

from experiments.datasets import Part, load_dataset
from experiments.training import MemoryBatches, accuracy, build_network
from experiments.training.distributed import Processes
from tests.support import training_runs
from tests.support.training_runs import assert_same_result, rows

distributed = pytest.mark.skipif(
    not torch.distributed.is_available(), reason="torch was built without torch.distributed"
)
OPTIONS = ["--pool", "dropcov", "--epochs", "2", "--landscape-every", "20", "--device", "cpu"]


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of an uninterrupted run, and of one whose second process was killed in epoch 2; how processes ended."""
    training_runs.needs_digits()
    folder = tmp_path_factory.mktemp("runs")
    scenarios = {
        "whole": {"arguments": [*OPTIONS, "--output", str(folder / "whole")], "moments": []},
        "killed": {"arguments": [*OPTIONS, "--output", str(folder / "killed")], "moments": [["step", 18]]},
        # A sum of three depends on their order, which must be the same after a resumption.
        "whole of three": {"arguments": [*OPTIONS, "--output", str(folder / "whole 3")], "moments": [], "processes": 3},
        "killed of three": {
            "arguments": [*OPTIONS, "--output", str(folder / "killed 3")],
            "moments": [["step", 18]],
            "processes": 3,
        },
        "diverging": {"arguments": ["--pool", "avg", "--lr", "1e30", "--output", str(folder / "nan")], "moments": []},
    }
    endings, errors = training_runs.run_scenarios([{"processes": 2, **scenario} for scenario in scenarios.values()])
    return folder, dict(zip(scenarios, endings, strict=True)), errors


@pytest.mark.thorough
@distributed
def test_a_killed_process_ends_the_other_and_both_resume(runs):
    folder, endings, _ = runs
    assert endings["whole"] == [[0, 0]]
    assert endings["killed"] == [[1, -signal.SIGKILL], [0, 0]]
    assert_same_result(folder / "killed", folder / "whole")
    assert [row["step"] for row in rows(folder / "whole" / "landscape.csv")] == ["20"]


@pytest.mark.thorough
@distributed
def test_three_processes_resume_to_the_same_digits(runs):
    folder, endings, _ = runs
    assert endings["whole of three"] == [[0, 0, 0]]
    assert endings["killed of three"][-1] == [0, 0, 0]
    assert_same_result(folder / "killed 3", folder / "whole 3")


@pytest.mark.thorough
@distributed
def test_masks_differ_between_processes(runs):
    folder, _, _ = runs
    first, second = torch.load(folder / "whole" / "checkpoint.pt", weights_only=True)["random"]
    assert not torch.equal(first["cpu"], second["cpu"])


@pytest.mark.thorough
@distributed
def test_a_loss_that_is_not_finite_ends_all_processes(runs):
    _, endings, errors = runs
    assert endings["diverging"] == [[1, 1]]
    assert "error in process" in errors
    assert "the training loss is " in errors


@pytest.mark.thorough
@distributed
def test_torchrun_trains_the_same_and_tests_every_image_once(runs, tmp_path):
    folder, _, _ = runs
    output = training_runs.torchrun(2, *OPTIONS, "--output", str(tmp_path / "run"))
    assert output.count("of the test images after the last epoch") == 1, "only the first process prints"
    assert_same_result(tmp_path / "run", folder / "whole")
    network = build_network("dropcov", seed=0)
    network.load_state_dict(torch.load(tmp_path / "run" / "checkpoint.pt", weights_only=True)["network"])
    digits = load_dataset("digits", torch.device("cpu"))
    alone = accuracy(network, digits.test)
    assert rows(tmp_path / "run" / "log.csv")[-1]["test_accuracy"] == str(alone)


# Python imports this module by itself. It makes sure of what is else a matter of luck.
ABORTS = """
import atexit, os, pathlib
def abort_beside_threads_of_a_process_group():
    names = [path.read_text() for path in pathlib.Path("/proc/self/task").glob("*/comm")]
    if any("gloo" in name for name in names):
        os.abort()
if "RANK" in os.environ:
    atexit.register(abort_beside_threads_of_a_process_group)
"""


@pytest.mark.thorough
@distributed
@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="threads are told from /proc")
def test_threads_that_outlive_the_process_group_do_not_abort_a_finished_run(tmp_path):
    """One run of many ended with SIGABRT after its last table: "terminate called without an active exception"."""
    training_runs.needs_digits()
    (tmp_path / "sitecustomize.py").write_text(ABORTS)
    options = ["--pool", "avg", "--epochs", "1", "--device", "cpu", "--output", str(tmp_path / "run")]
    output = training_runs.torchrun(2, *options, import_first=[tmp_path])
    assert "of the test images after the last epoch" in output


def few_digits(count):
    images = torch.arange(count, dtype=torch.float32).reshape(count, 1, 1, 1)
    return Part(images, torch.arange(count))


@pytest.mark.parametrize("count", [2, 3, 4])
def test_processes_share_the_digits(count):
    """Together they take the steps of one process, but for what does not divide; in testing all images, once."""
    alone = MemoryBatches(few_digits(29), few_digits(29), batch_size=12, seed=0)
    shares = [
        MemoryBatches(few_digits(29), few_digits(29), 12, 0, Processes(rank, count, rank)) for rank in range(count)
    ]
    tested = [label for share in shares for _, labels in share.test() for label in labels.tolist()]
    assert sorted(tested) == list(range(29))
    for epoch in (1, 2):
        order = [labels.tolist() for _, labels in alone.training(epoch)]
        together = [[labels.tolist() for _, labels in share.training(epoch)] for share in shares]
        steps = [sorted(chain(*parts)) for parts in zip(*together, strict=True)]
        assert steps[:-1] == [sorted(batch) for batch in order[:-1]]
        assert set(steps[-1]) <= set(order[-1])
        assert sum(map(len, steps)) == shares[0].images_per_epoch == 29 - 29 % count
        assert all(len(set(map(len, parts))) == 1 for parts in zip(*together, strict=True))


def test_the_environment_of_torchrun_is_read():
    assert Processes.from_environment({}) == Processes(0, 1, 0)
    whole = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1"}
    assert Processes.from_environment(whole) == Processes(3, 4, 1)
    for broken in ({"WORLD_SIZE": "2"}, {**whole, "RANK": "four"}, {**whole, "RANK": "4"}, {**whole, "RANK": "-1"}):
        with pytest.raises(ValueError, match="WORLD_SIZE"):
            Processes.from_environment(broken)


def test_every_process_has_a_gpu_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    cuda, cpu = torch.device("cuda", 0), torch.device("cpu")
    assert Processes(1, 2, 1).device(cuda) == torch.device("cuda", 1)
    assert Processes(1, 2, 1).device(cpu) == cpu
    assert Processes().device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    with pytest.raises(ValueError, match="each takes a GPU of its own: --device cuda, got cuda:1"):
        Processes(0, 2, 0).device(torch.device("cuda", 1))
    with pytest.raises(ValueError, match="process 2 of this machine has no GPU: torch sees 2"):
        Processes(2, 3, 2).device(cuda)


@distributed
@pytest.mark.gpu
def test_torchrun_on_every_gpu(tmp_path):
    """A process for each; with several GPUs they talk by NCCL."""
    count = torch.cuda.device_count()
    arguments = ["--pool", "dropcov", "--epochs", "1", "--device", "cuda", "--batch-size", str(32 * count)]
    training_runs.torchrun(count, *arguments, "--output", str(tmp_path / "run"))
    assert len(rows(tmp_path / "run" / "log.csv")) == 1
