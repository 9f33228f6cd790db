"""``python -m gcp_kernels``: what runs here (info), is it right (selftest), how fast (bench)."""

import argparse
import sys
from collections.abc import Sequence

from . import __version__
from .commands import bench, demo, info, reproduce, selftest, train
from .commands.ending import run_to_its_end

COMMANDS = {
    "info": (info, "versions, devices, and which backend serves what, and why not"),
    "selftest": (selftest, "check every available backend against the float64 reference"),
    "bench": (bench, "speed and memory beside other implementations; from a checkout"),
    "demo": (demo, "train a small network on real digits, with average and with covariance pooling"),
    "train": (train, "train on digits or a folder of images; resumable, on one or several processes"),
    "reproduce": (reproduce, "the papers' claims on optimisation, measured on digits; writes a report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :func:`gcp_kernels.commands.ending.run_to_its_end`."""
    return run_to_its_end("gcp_kernels", lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(
        prog="gcp_kernels", description="Global covariance pooling for PyTorch, fused and batched."
    )
    parser.add_argument("--version", action="version", version=f"gcp_kernels {__version__}")
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, (module, summary) in COMMANDS.items():
        options = getattr(module, "PARSER_OPTIONS", {})
        module.add_arguments(commands.add_parser(name, help=summary, description=summary, **options))
    args = parser.parse_args(argv)
    module, _ = COMMANDS[args.command]
    return module.run(args)


if __name__ == "__main__":
    sys.exit(main())
