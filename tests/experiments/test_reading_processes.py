"""Processes that read images and end, or have no shared memory: a line with what to do, not a worker's traceback."""

import errno
import multiprocessing
import os
import signal

import pytest
import torch
from torch.utils.data import get_worker_info

from experiments.__main__ import main
from experiments.training.reading_processes import trouble

NO_SHARED_MEMORY = "unable to allocate shared memory(shm) for file </torch_1_2_0>: No space left on device (28)"
# Of the signal torch tells only when it hears of it before it misses the process.
GONE = "DataLoader worker (pid"
FAULTS = {
    "a small /dev/shm, when it is written to": (lambda: os.kill(os.getpid(), signal.SIGBUS), GONE),
    "a small /dev/shm, when it is asked for": (None, NO_SHARED_MEMORY),
    "no memory": (lambda: os.kill(os.getpid(), signal.SIGKILL), GONE),
    "ended by itself": (lambda: os._exit(3), GONE),
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    pytest.importorskip("torchvision", reason="torchvision is not installed (extra: models)")
    image = pytest.importorskip("PIL.Image", reason="Pillow is not installed")
    root = tmp_path_factory.mktemp("images")
    for part in ("train", "val"):
        for name in ("a", "b"):
            (root / part / name).mkdir(parents=True)
            for index in range(2):
                image.new("RGB", (64 + index, 64)).save(root / part / name / f"{index}.png")
    return root


def run(data, output, *options):
    arguments = ["--data", str(data), "--image-size", "64", "--batch-size", "4", "--epochs", "1", "--device", "cpu"]
    return main(["train", *arguments, "--output", str(output), *options])


@pytest.mark.parametrize("name", FAULTS)
def test_a_reading_process_that_ends_is_a_line_with_what_to_do(name, data, tmp_path, monkeypatch, capsys):
    from experiments.training import image_folder

    fault, message = FAULTS[name]
    right = image_folder.hashed_seed

    def seed(*numbers):
        if get_worker_info() is not None:
            if fault is None:
                raise RuntimeError(message)
            fault()
        return right(*numbers)

    with monkeypatch.context() as patched:
        patched.setattr(image_folder, "hashed_seed", seed)
        assert run(data, tmp_path / "run", "--workers", "1") == 1
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("experiments train: error: the processes that read images cannot go on: ")
    assert message in error
    assert "fewer --workers" in error
    assert "--shm-size" in error
    assert error.endswith("no epoch is complete: the same command begins again")
    assert run(data, tmp_path / "run", "--workers", "0") == 0


def test_a_process_that_cannot_be_started_is_such_a_line_too(data, tmp_path, monkeypatch, capsys):
    def refuse():
        raise BlockingIOError(errno.EAGAIN, "Resource temporarily unavailable")

    monkeypatch.setattr(os, "fork", refuse)
    assert run(data, tmp_path / "run", "--workers", "1") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert "cannot go on: [Errno 11] Resource temporarily unavailable (fewer --workers" in error


def test_without_semaphores_it_is_said_before_any_work(data, tmp_path, monkeypatch, capsys):
    def refuse():
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(multiprocessing, "Queue", refuse)
    assert run(data, tmp_path / "run", "--workers", "1") == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert (
        "cannot be started: no semaphores in shared memory, or no pipes: [Errno 28] No space left on device (fewer"
        in error
    )
    assert not (tmp_path / "run").exists()
    assert run(data, tmp_path / "run", "--workers", "0") == 0


def test_what_a_loader_says_of_a_process_that_is_gone(tmp_path):
    """The words are torch's: another version's must be recognised too."""

    class Gone(torch.utils.data.Dataset):
        def __len__(self):
            return 8

        def __getitem__(self, index):
            os.kill(os.getpid(), signal.SIGKILL)

    with pytest.raises(RuntimeError) as caught:
        list(torch.utils.data.DataLoader(Gone(), num_workers=1))
    assert trouble(caught.value) is not None


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError("unable to open shared memory object </torch_7> in read-write mode: Too many open files (24)"),
        RuntimeError("received 0 items of ancdata"),
        RuntimeError("Too many open files. Communication with the workers is no longer possible. Please increase"),
        RuntimeError("unable to mmap 602112 bytes from file </torch_3_1>: Cannot allocate memory (12)"),
        RuntimeError("Pin memory thread exited unexpectedly"),
        OSError(errno.ENOMEM, "Cannot allocate memory"),
    ],
)
def test_everything_that_is_used_up_is_known(error):
    assert "\n" not in trouble(error)


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "Caught RuntimeError in DataLoader worker process 0.\nTraceback: ...\nRuntimeError: a transform's own"
        ),
        RuntimeError("mat1 and mat2 shapes cannot be multiplied"),
        RuntimeError(""),
        FileNotFoundError(errno.ENOENT, "No such file or directory"),
        ValueError("DataLoader worker (pid 7)"),
    ],
)
def test_other_errors_are_not_taken_for_it(error):
    assert trouble(error) is None
