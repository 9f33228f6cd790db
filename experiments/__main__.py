"""``python -m experiments``, from a checkout: the demo, the training of networks, the papers' comparisons in small."""

import argparse
import sys
from collections.abc import Sequence

from gcp_kernels.commands.ending import run_to_its_end

from .commands import demo, reproduce, train

COMMANDS = {
    "demo": (demo, "train a small network on real digits, with average and with covariance pooling"),
    "train": (train, "train on digits or a folder of images; resumable, on one or several processes"),
    "reproduce": (reproduce, "the papers' claims on optimisation, measured on small images; writes a report"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code; see :func:`gcp_kernels.commands.ending.run_to_its_end`."""
    return run_to_its_end("experiments", lambda: run(argv))


def run(argv: Sequence[str] | None) -> int:
    """Parse the arguments and run the command."""
    parser = argparse.ArgumentParser(
        prog="python -m experiments", description="Demo, training and reproduction with the pooling of gcp_kernels."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar=f"{{{','.join(COMMANDS)}}}")
    for name, (module, summary) in COMMANDS.items():
        module.add_arguments(commands.add_parser(name, help=summary, description=summary))
    args = parser.parse_args(argv)
    module, _ = COMMANDS[args.command]
    return module.run(args)


if __name__ == "__main__":
    sys.exit(main())
