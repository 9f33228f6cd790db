"""Checks that go wrong in every way, and the process that serves them: for tests of first contact."""

import atexit
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

# As a script it finds only its own folder.
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch

from benchmarks.sanitize import outcome as check_outcome
from benchmarks.sanitize.checks import Work
from benchmarks.sanitize.outcome import serve

CPU = torch.device("cpu")


def die():
    os.abort()


def killed():
    os.kill(os.getpid(), signal.SIGKILL)


def hang():
    """Hang as a compiler does: in another process, which must not outlive this one."""
    child = subprocess.Popen(["sleep", "600"])
    print(f"sleeping in {child.pid}", file=sys.stderr, flush=True)
    if folder := os.environ.get("CONTACT_PIDS"):
        Path(folder, "hang").write_text(str(child.pid))
    time.sleep(600)


def illegal():
    """Raise one of those CUDA errors after which the process is of no use; see ``Broken``."""
    check_outcome.lost = lambda device: True
    raise RuntimeError("CUDA error: an illegal memory access was encountered")


def garbage():
    """Print garbage, with what looks like the answer to this very check, in family A at the third place."""
    outcome = {"verdict": "WRONG", "reason": "", "errors": [], "seconds": None, "allowed": False}
    answer = json.dumps({"check": "family A garbage 2", "outcome": outcome, "lost": False})
    print(f"\n{answer}\n\x00\xff no newline", end="")
    sys.stdout.flush()
    os.write(1, b"\n{}\n5\n[1]\n" + answer.encode() + b"\n" + bytes(range(256)))
    os.write(2, bytes(range(256)))


def bad_end():
    atexit.register(os._exit, 7)


# What a check does on the device before it gives its result, and by how much the result is wrong.
BEHAVIOURS = {
    "ok": (lambda: None, 0.0),
    "wrong": (lambda: None, 0.01),
    "not a number": (lambda: None, float("nan")),
    "raises": (lambda: torch.zeros(2) + torch.zeros(3), 0.0),
    "dies": (die, 0.0),
    "killed": (killed, 0.0),
    "hangs": (hang, 0.0),
    "illegal": (illegal, 0.0),
    "garbage": (garbage, 0.0),
    "bad end": (bad_end, 0.0),
    "cannot": (lambda: None, 0.0),
}


@dataclass(frozen=True)
class Fake:
    family: str
    behaviour: str
    place: int
    backend: str = "triton"

    limit = 1e-3
    form, dtype, precision, shape = "made up", "float32", "high", "1x2x3"

    def __str__(self):
        return f"family {self.family} {self.behaviour} {self.place}"

    @property
    def kernel(self):
        return f"fake {self.family}"

    @property
    def difficulty(self):
        return 0, self.place

    def why_not(self, device):
        return "it cannot run here" if self.behaviour == "cannot" else None

    def work(self, device):
        act, error = BEHAVIOURS[self.behaviour]

        def launch():
            act()
            return [torch.ones(1, 4) + error]

        return Work(launch, lambda: [torch.ones(1, 4, dtype=torch.float64)])


def fakes(text: str) -> list[Fake]:
    """Make of "A:ok,dies;B:hangs" a family A of two checks and a family B of one."""
    found = []
    for part in text.split(";"):
        family, _, behaviours = part.partition(":")
        found += [Fake(family, behaviour, place) for place, behaviour in enumerate(behaviours.split(","))]
    return found


if __name__ == "__main__":
    print("what a library says when it is loaded", end="")
    sys.stdout.flush()
    serve(fakes(sys.argv[1]), CPU)
