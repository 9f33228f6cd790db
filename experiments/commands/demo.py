"""Train a small CNN on real handwritten digits, once with average pooling and once with covariance pooling (GCP).

Prints the test accuracy of both after each epoch, what one pass of the pooling costs beside eager code, and who won;
draws both curves. The digits are the 1797 scans that scikit-learn ships.
Needs the extra "demo": pip install --no-build-isolation --editable ".[demo]" in a checkout of the repository.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch

from gcp_kernels import __version__
from gcp_kernels.commands.argument_types import device_argument, file_problem, integer_from, number_from
from gcp_kernels.commands.spread import Spread
from gcp_kernels.extras import how_to_install
from gcp_kernels.nn.poolings import POOLINGS

from ..datasets import ImageData, Part, load_dataset
from ..datasets.digits import BATCH_SIZE
from ..demo import picture, timing
from ..training import Epoch, build_network, fit, steps_per_epoch
from .demo_extra import device_name, missing_packages

LABELS = {"avg": POOLINGS["avg"].label, "gcp": f"covariance pooling ({POOLINGS['gcp'].label})"}
# Of 1e-3, 3e-3 and 1e-2 best for GCP on validation images, over seeds 0 to 4 (docs/demo.jsonl).
LEARNING_RATE = 3e-3
WEIGHT_DECAY = 1e-2
# Drawn over each time; a picture that a user names never is.
PICTURE = Path("gcp_demo.png")
LEAST_EPOCHS = 5
HELD_OUT = ("test", "validation")
TIMING_ROUNDS = {"cpu": 11, "cuda": 100}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declare the options; a value that is not allowed ends the program with exit code 2 and says what is."""
    parser.description = __doc__
    parser.add_argument("--epochs", type=integer_from(1), default=15, help="passes over the training set (15)")
    parser.add_argument("--seed", type=integer_from(0), default=0, help="initial weights and image order (0)")
    parser.add_argument(
        "--batch-size", type=integer_from(1), default=BATCH_SIZE, help=f"images per optimiser step ({BATCH_SIZE})"
    )
    parser.add_argument(
        "--lr", type=number_from(0, above=True), default=LEARNING_RATE, help=f"at the start ({LEARNING_RATE:g})"
    )
    parser.add_argument("--device", type=device_argument, help="cpu, cuda or cuda:N (cuda if there is one)")
    parser.add_argument("--output", type=Path, default=PICTURE, help=f"the plot, a new file (./{PICTURE}, drawn over)")
    parser.add_argument(
        "--held-out",
        choices=HELD_OUT,
        default=HELD_OUT[0],
        help="which images the accuracy is on (test); a learning rate is chosen by validation",
    )
    parser.add_argument("--no-plot", action="store_true", help="draw nothing")
    parser.add_argument(
        "--record", type=Path, metavar="FILE", help="add settings, versions and accuracies to FILE, as a line of JSON"
    )


def run(args: argparse.Namespace) -> int:
    """Run the demo; 0 when done, 1 for a missing package or a wrong result, 2 for an unusable output."""
    started = time.perf_counter()
    problem = None if args.no_plot else picture.plot_path_problem(args.output)
    if problem is None and not args.no_plot and args.output != PICTURE:
        problem = file_problem(args.output)
    if problem:
        return fail(f"--output {args.output}: {problem}", 2)
    if args.record and not args.record.parent.is_dir():
        return fail(f"--record {args.record}: {args.record.parent} is not an existing folder", 2)
    missing = missing_packages(plotting=not args.no_plot)
    if missing:
        return fail(f"{', '.join(missing)} missing; the demo needs: {how_to_install('demo')}", 1)

    device = args.device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"gcp_kernels {__version__}, torch {torch.__version__}, {device_name(device)}, seed {args.seed}")
    digits = load_dataset("digits", device)
    print(
        f"digits: {len(digits.train)} training and {len(held_out(digits, args))} {args.held_out} images of 8x8; "
        "three convolutions, feature map 64 x 8x8, one linear classifier\n"
    )
    curves, features = train_both(digits, args, device)
    average, covariance = curves["avg"], curves["gcp"]
    if args.record:
        record(curves, args, device)
    print("\n" + epoch_times({pool: [epoch.seconds for epoch in epochs] for pool, epochs in curves.items()}))
    sound = report_times(features, device)
    if not args.no_plot:
        picture.plot(
            {LABELS[pool]: epochs for pool, epochs in curves.items()},
            f"8x8 digits, same network and data order, seed {args.seed}",
            args.output,
        )
        print(f"plot written to {args.output}")
    print(f"done in {time.perf_counter() - started:.0f} s\n")
    print(verdict([epoch.accuracy for epoch in average], [epoch.accuracy for epoch in covariance]))
    return 0 if sound else 1


def fail(message: str, code: int) -> int:
    print(f"experiments demo: error: {message}", file=sys.stderr)
    return code


def held_out(digits: ImageData, args: argparse.Namespace) -> Part:
    return digits.validation if args.held_out == "validation" else digits.test


def train_both(
    digits: ImageData, args: argparse.Namespace, device: torch.device
) -> tuple[dict[str, list[Epoch]], torch.Tensor]:
    """Train both networks, epoch by epoch in turn, printing a row of the table after each.

    Returns the curves by pool, and the feature map (64, 64, 8, 8) that the trained covariance network pools.
    """
    from tqdm import tqdm

    networks = {pool: build_network(pool, args.seed).to(device) for pool in LABELS}
    curves: dict[str, list[Epoch]] = {pool: [] for pool in networks}
    steps = args.epochs * steps_per_epoch(len(digits.train), args.batch_size)
    print("        average pooling         covariance pooling (GCP)")
    print("epoch   loss      accuracy      loss      accuracy")
    with (
        torch.backends.cudnn.flags(enabled=True, benchmark=False, deterministic=True, allow_tf32=False),
        tqdm(total=len(networks) * steps, unit="step", leave=False, disable=None) as bar,
    ):
        runs: dict[str, Iterator[Epoch]] = {}
        for pool, network in networks.items():
            optimizer = torch.optim.AdamW(network.parameters(), lr=args.lr, weight_decay=WEIGHT_DECAY)
            runs[pool] = fit(
                network,
                digits.train,
                held_out(digits, args),
                optimizer=optimizer,
                schedule=torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps),
                epochs=args.epochs,
                batch_size=args.batch_size,
                seed=args.seed,
                after_step=lambda images, labels: bar.update(),
            )
        for number, epochs in enumerate(zip(*runs.values(), strict=True), start=1):
            for curve, epoch in zip(curves.values(), epochs, strict=True):
                curve.append(epoch)
            cells = "      ".join(f"{epoch.loss:8.5f}  {epoch.accuracy:6.2f} %" for epoch in epochs)
            tqdm.write(f"{number:5d}   {cells}")
    with torch.no_grad():
        features = networks["gcp"].eval()[0](digits.test.images[:64])
    return curves, features


def record(curves: Mapping[str, Sequence[Epoch]], args: argparse.Namespace, device: torch.device) -> None:
    """Add a line to ``args.record``: what was run, on what, and the accuracy (per cent) after each epoch."""
    line = {
        "date": time.strftime("%Y-%m-%d", time.gmtime()),
        "gcp_kernels": __version__,
        "torch": torch.__version__,
        "python": platform.python_version(),
        "device": device_name(device),
        "seed": args.seed,
        "lr": args.lr,
        "batch_size": args.batch_size,
        "held_out": args.held_out,
        "accuracy": {pool: [round(epoch.accuracy, 4) for epoch in epochs] for pool, epochs in curves.items()},
    }
    with args.record.open("a", encoding="utf-8") as file:
        file.write(json.dumps(line) + "\n")


def epoch_times(seconds: Mapping[str, Sequence[float]]) -> str:
    """Say how long an epoch of training took; the first one, with what is done once, is left out."""
    later = {pool: Spread.of(measured[1:]) for pool, measured in seconds.items() if len(measured) > LEAST_EPOCHS}
    if not later:
        return f"time to train one epoch: not said, {LEAST_EPOCHS} epochs or fewer do not show its spread\n"
    return (
        f"seconds to train one epoch, median (quartiles): {later['avg']:.2f} with average pooling, {later['gcp']:.2f} "
        "with GCP\n"
    )


def report_times(features: torch.Tensor, device: torch.device) -> bool:
    """Print what one pass of the pooling costs on two feature maps; False if ``fused_gcp`` is wrong."""
    generator = torch.Generator().manual_seed(0)
    large = torch.randn(8, 256, 14, 14, generator=generator).relu().to(device)
    cases = {"this network's feature map": features, "the size of a ResNet-50's, random numbers": large}
    sound = True
    rounds = TIMING_ROUNDS[device.type]
    print(
        "one forward and backward pass of the pooling, float32, 5 iterations:\n"
        f"median (quartiles) of {rounds} interleaved rounds, and how many times longer than ours"
    )
    for title, case in cases.items():
        times = timing.time_pool(case, rounds)
        sound = sound and times[0].milliseconds is not None
        print(f"  {title}, (B, C, H, W) = {tuple(case.shape)}")
        for row in times:
            if row.milliseconds is None:
                print(f"    not timed: {row.name}: wrong by {row.error:.1e} against float64")
            else:
                ratio = "" if row is times[0] or row.ratio is None else f"x{row.ratio:.2f}"
                print(f"    {f'{row.milliseconds:.2f} ms':30} {ratio:22} {row.name}")
    if timing.PYTORCHCV not in (row.name for row in times):
        print("  pytorchcv is not installed: its loop-free layer is not compared")
    print()
    return sound


def verdict(average: Sequence[float], covariance: Sequence[float]) -> str:
    """Say who won, from the test accuracies per epoch (per cent), and when each reached the other's final one."""
    last_average, last_covariance = average[-1], covariance[-1]
    ends = f"GCP ends at {last_covariance:.2f} % and average pooling at {last_average:.2f} %"
    if last_covariance > last_average:
        outcome = f"GCP wins by {last_covariance - last_average:.2f} points"
    elif last_covariance < last_average:
        outcome = f"GCP does not win: average pooling is ahead by {last_average - last_covariance:.2f} points"
    else:
        outcome = "GCP does not win: it is a tie"
    return (
        f"{outcome} ({ends}, epoch {len(average)}). "
        f"{reached('GCP', covariance, 'average pooling', last_average)}; "
        f"{reached('average pooling', average, 'GCP', last_covariance)}."
    )


def reached(name: str, curve: Sequence[float], other: str, target: float) -> str:
    """Say in which epoch a curve first reached the other's final accuracy."""
    for number, value in enumerate(curve, start=1):
        if value >= target:
            return f"{name} reached {other}'s final accuracy in epoch {number} of {len(curve)}"
    epochs = "1 epoch" if len(curve) == 1 else f"{len(curve)} epochs"
    return f"{name} never reached {other}'s final accuracy in {epochs}"
