"""``python -m benchmarks``: one command for each thing that the suite does; without one, ``run``."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Sequence

# By room: the module of each command, and what it is for.
ROOMS = {
    "speed": {
        "run": "verify, time and weigh every provider (the default)",
        "compare": "two runs: what became slower, larger or wrong",
        "plot": "draw the results of a run",
        "dropcov": "DropCov against its definition written out",
        "end-to-end": "a training step of a ResNet or MobileNetV2 with each pooling",
        "gpu-profile": "two passes, for a profiler to look at",
    },
    "codegen": {
        "static": "what the assembler made of every Triton kernel, without a GPU",
        "static-extension": "what it made of every CUDA kernel of the built extension, without a GPU",
        "predict": "the time of the CUDA kernels as a model of a GPU has it, from their machine code, without one",
        "overhead": "time from a Python call to its launch, without a GPU",
    },
    "sanitize": {
        "first-contact": "does every kernel run on this GPU, and is it right; one table, whatever crashes",
        "sanitize": "every kernel on few samples, under compute-sanitizer if asked",
    },
    "tune": {
        "tune": "search for launch configurations on this GPU",
    },
    "gpu": {
        "gpu-check": "everything that only a GPU can show, in half an hour, into one folder",
        "extension-file": "can the extension that lies here be taken as it is, for a GPU of an architecture",
        "rehearse": "prepare work for a borrowed GPU without network, on a machine without one",
        "warm-cache": "compile what a GPU will ask Triton for, on a machine without one",
    },
}
MODULES = {name: f"benchmarks.{room}.{name.replace('-', '_')}" for room, commands in ROOMS.items() for name in commands}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; each explains its options with ``--help``."""
    arguments = list(sys.argv[1:] if arguments is None else arguments)
    if arguments[:1] == ["gpu-check"]:
        # It ends in order by itself, and says so where there is no torch, which gcp_kernels imports.
        return run(arguments)
    from gcp_kernels.commands.ending import run_to_its_end

    return run_to_its_end("python -m benchmarks", lambda: run(arguments))


def run(arguments: list[str]) -> int:
    """Find the command and run it."""
    if not arguments or (arguments[0].startswith("-") and arguments[0] not in ("-h", "--help")):
        arguments.insert(0, "run")
    args = parser().parse_args(arguments)
    return int(importlib.import_module(MODULES[args.command]).main(args.options))


def parser() -> argparse.ArgumentParser:
    """Take the name of a command only: its options are its own affair, and so is what it imports."""
    lines = ["commands:"]
    for room, commands in ROOMS.items():
        lines += [f"  {room}/", *(f"    {name:17} {summary}" for name, summary in commands.items())]
    made = argparse.ArgumentParser(
        prog="python -m benchmarks",
        usage="python -m benchmarks [command] [options]",
        description="Speed, memory, machine code and correctness of the kernels, on this machine.",
        epilog="\n".join([*lines, "", "python -m benchmarks COMMAND --help lists the options of a command"]),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    made.add_argument("command", choices=MODULES, metavar="command", help="one of the commands below; run without one")
    made.add_argument("options", nargs=argparse.REMAINDER, help="options of the command")
    return made


if __name__ == "__main__":
    sys.exit(main())
