"""Run the benchmark suite of a checkout; an installed package does not have it."""

import argparse
import importlib
import sys
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]


# No argument begins with this prefix, so every option, --help too, goes to python -m benchmarks. (argparse.REMAINDER
# alone would not pass on an option that comes first.)
PARSER_OPTIONS = {"prefix_chars": "\0", "add_help": False}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Take everything, to pass it on."""
    parser.add_argument("arguments", nargs=argparse.REMAINDER)


def run(args: argparse.Namespace) -> int:
    """Run the suite and return its exit code; 2 where there is no suite."""
    if not (CHECKOUT / "benchmarks" / "__main__.py").is_file():
        print(
            f"python -m gcp_kernels bench needs a checkout of the repository, and {CHECKOUT} has no benchmarks folder; "
            "clone it and run python -m benchmarks there",
            file=sys.stderr,
        )
        return 2
    # An editable install has the checkout's package without the folder above it on the path.
    if str(CHECKOUT) not in sys.path:
        sys.path.insert(0, str(CHECKOUT))
    return int(importlib.import_module("benchmarks.__main__").main(args.arguments))
