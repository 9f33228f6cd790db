"""``python -m benchmarks``: one command for each thing that the suite does; without one, ``run``."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Sequence

from gcp_kernels.commands.ending import run_to_its_end

COMMANDS = {
    "run": "verify, time and weigh every provider (the default)",
    "compare": "two runs: what became slower, larger or wrong",
    "plot": "draw the results of a run",
    "static": "what the assembler made of every Triton kernel, without a GPU",
    "static-extension": "what it made of every CUDA kernel of the built extension, without a GPU",
    "predict": "the time of the CUDA kernels as a model of a GPU has it, from their machine code, without one",
    "overhead": "time from a Python call to its launch, without a GPU",
    "dropcov": "DropCov against its definition written out",
    "first-contact": "does every kernel run on this GPU, and is it right; one table, whatever crashes",
    "sanitize": "every kernel on few samples, under compute-sanitizer if asked",
    "tune": "search for launch configurations on this GPU",
    "rehearse": "prepare work for a borrowed GPU without network, on a machine without one",
    "end-to-end": "a training step of a ResNet-18 with each pooling",
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; each explains its options with ``--help``."""
    return run_to_its_end("python -m benchmarks", lambda: run(arguments))


def run(arguments: Sequence[str] | None) -> int:
    """Find the command and run it."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] in (["-h"], ["--help"]):
        print("usage: python -m benchmarks [command] [options]\n")
        print("\n".join(f"  {name:16} {summary}" for name, summary in COMMANDS.items()))
        print("\npython -m benchmarks COMMAND --help lists the options of a command")
        return 0
    if not arguments or arguments[0].startswith("-"):
        arguments.insert(0, "run")
    command, *rest = arguments
    if command not in COMMANDS:
        print(f"python -m benchmarks: no command {command!r}; there are {', '.join(COMMANDS)}", file=sys.stderr)
        return 2
    module = importlib.import_module(f"benchmarks.{command.replace('-', '_')}")
    return int(module.main(rest))


if __name__ == "__main__":
    sys.exit(main())
