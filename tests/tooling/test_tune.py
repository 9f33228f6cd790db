"""The search for launch configurations: from end to end with a made-up clock, and with the real assembler."""

import os
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton", reason="the configurations are those of Triton's kernels")

from benchmarks.tune import thresholds as tune_thresholds
from benchmarks.tune import tune
from benchmarks.tune.search import search
from benchmarks.tune.space import KERNELS, ON_CHIP_SIDES, compiled_for, entry, shared_limit, sizes, table_name
from gcp_kernels.ops.sides import CHANNELS, POSITIONS
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import Choices, OnChip, Persistent, Phases, Thresholds, Tiling

pytestmark = pytest.mark.same_without_gpu
ROOT = Path(__file__).parents[2]
USERS = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
HOPPER = Architecture(90, 132)
NAMES = {name: getattr(policy, name) for name in ("Choices", "OnChip", "Tiling", "Thresholds")}
RULES = [Thresholds(samples=0.25, blocks=1, positions=2048), Thresholds(samples=1.0, blocks=4, positions=2**31)]


class MadeUpCompiler:
    """Everything is legal, but for what ``illegal`` says of a launch."""

    def __init__(self, illegal=lambda choice: False):
        self.illegal = illegal
        self.asked = []

    def problems(self, launches, archs, shared):
        self.asked.append((tuple(archs), shared))
        return [["it spills 8 bytes"] if any(self.illegal(case.choice) for case in cases) else [] for cases in launches]


class MadeUpClock:
    """A launch takes what ``cost`` says, give or take two per cent, and errs if ``wrong``; what is timed is noted."""

    def __init__(self, cost, wrong=lambda choice: False):
        self.cost, self.wrong, self.timed = cost, wrong, set()

    def error(self, case):
        if self.wrong(case.choice) == "raises":
            raise RuntimeError("out of resource: shared memory\nsecond line")
        return (float("nan") if self.wrong(case.choice) else 1e-7), 1e-5

    def seconds(self, cases, rounds):
        self.timed |= {case.choice for case in cases}
        assert len({replace(case, choice=cases[0].choice) for case in cases}) == 1, "side by side on one shape"
        return [[self.cost(case) * (1 + 0.02 * (turn % 3 - 1)) for turn in range(rounds)] for case in cases]


def tiling_of(choice):
    return choice if isinstance(choice, OnChip | Tiling) else choice.tiling


def evaluated(source):
    """Give what the printed table defines."""
    namespace = dict(NAMES)
    exec(source, namespace)
    return {name: value for name, value in namespace.items() if name not in {*NAMES, "__builtins__"}}


def run(capsys, kernels, compiler, clock, *options, arch=HOPPER):
    assert tune.main([*kernels, *options], compiler=compiler, clock=clock, arch=arch) == 0
    captured = capsys.readouterr()
    return evaluated(captured.out), captured


# What the made-up GPU likes best: legal in the space of every entry.
BEST_ON_CHIP = {CHANNELS: {"block_m": 64, "stages": 3}, POSITIONS: {"block_c": 32, "stages": 3, "warps": 4}}
BEST_TILING = Tiling(32, block_k=32, block_m=32, warps=4, stages=3)


def likes_on_chip(choice):
    return all(getattr(choice, name) == value for name, value in BEST_ON_CHIP[choice.side].items())


def likes(case):
    choice = tiling_of(case.choice)
    if isinstance(choice, OnChip):
        return (1e-5 if likes_on_chip(choice) else 2e-5) * (1 + choice.block_c / 1000)
    return 3e-5 if choice == BEST_TILING else 5e-5


def test_the_fastest_is_printed_as_a_table(capsys, tmp_path):
    file = tmp_path / "table.py"
    found, captured = run(capsys, ["all"], MadeUpCompiler(), MadeUpClock(likes), "--output", str(file))
    assert file.read_text() == captured.out
    assert set(found) == {"HOPPER", "COVARIANCE"}
    assert found["COVARIANCE"] == BEST_TILING
    table = found["HOPPER"]
    assert isinstance(table, Choices)
    on_chip_kernels = [kernel for kernel in KERNELS if sizes(kernel) != (0,)]
    for planes in (1, 2):
        for kernel in on_chip_kernels:
            on_chip = getattr(table, kernel.replace("-", "_"))[planes]
            assert [choice.size for choice in on_chip] == sorted(sizes(kernel))
            assert all(map(likes_on_chip, on_chip))
        assert table.forward[planes] == table.backward[planes] == table.phases[planes] == BEST_TILING
    # By phase is never faster here, so it should never be chosen.
    assert not any(table.thresholds.wants_phases(b, m, 8, 132) for b in (1, 16, 66) for m in (49, 6272))
    assert "not measured" not in captured.out
    assert max(map(len, captured.out.splitlines())) <= 120


def test_a_search_that_is_stopped_leaves_what_those_before_it_have_found(capsys, tmp_path):
    def cost(case):
        if case.precision == "high":
            raise KeyboardInterrupt
        return likes(case)

    file = tmp_path / "table.py"
    with pytest.raises(KeyboardInterrupt):
        run(capsys, ["persistent-forward"], MadeUpCompiler(), MadeUpClock(cost), "--output", str(file))
    assert evaluated(file.read_text())["HOPPER"].forward[1] == BEST_TILING


def test_every_entry_has_its_reason_above_it(capsys):
    _, captured = run(capsys, ["persistent-forward", "on-chip-backward"], MadeUpCompiler(), MadeUpClock(likes))
    lines = captured.out.splitlines()
    for number, line in enumerate(lines):
        if re.match(r" +(\d: )?(Tiling|OnChip|thresholds)", line):
            assert lines[number - 1].lstrip().startswith("#"), line
    text = " ".join(line.strip().removeprefix("# ") for line in lines)
    assert "30 us forward of 264x256x196 bfloat16" in text
    assert "0.600 (0.600 to 0.600) of what was shipped, Tiling(block=64, block_k=64, block_m=16, warps=4" in text
    assert "as shipped, not measured in this run" in text
    assert "torch " + torch.__version__ in text


@pytest.mark.parametrize("kernel", KERNELS)
@pytest.mark.parametrize("how", ["illegal", "wrong", "raises"])
def test_what_is_illegal_or_wrong_is_never_timed_nor_chosen(capsys, kernel, how):
    def bad(choice):
        choice = tiling_of(choice)
        fast = choice == BEST_TILING or (isinstance(choice, OnChip) and likes_on_chip(choice))
        return how if fast else False

    compiler = MadeUpCompiler(bad if how == "illegal" else lambda choice: False)
    clock = MadeUpClock(likes, bad if how != "illegal" else lambda choice: False)
    found, _ = run(capsys, [kernel], compiler, clock)
    assert clock.timed
    assert not any(bad(choice) for choice in clock.timed)
    before = {"HOPPER": policy.HOPPER} | ({"COVARIANCE": policy.COVARIANCE} if kernel == "covariance" else {})
    if not kernel.startswith(("on-chip", "positions")):  # nothing else is faster than what is shipped
        assert found == before
    for choices in (found["HOPPER"].on_chip_forward, found["HOPPER"].on_chip_backward):
        assert not any(bad(choice) for planes in choices.values() for choice in planes)


def test_what_is_shipped_stays_unless_another_is_faster_beyond_the_spread(capsys):
    def slightly(case):
        return 0.985 if tiling_of(case.choice) == BEST_TILING else 1.0

    found, captured = run(capsys, ["persistent-backward"], MadeUpCompiler(), MadeUpClock(slightly))
    assert found["HOPPER"] == policy.HOPPER
    assert "takes 0.985" in " ".join(line.strip().removeprefix("# ") for line in captured.out.splitlines())


def test_what_is_shipped_is_timed_whatever_the_assembler_made_of_it(capsys):
    shipped = policy.HOPPER.backward[1]
    compiler, clock = MadeUpCompiler(lambda choice: tiling_of(choice) == shipped), MadeUpClock(lambda case: 1.0)
    found, _ = run(capsys, ["persistent-backward"], compiler, clock, "--precision", "fast")
    assert shipped in map(tiling_of, clock.timed)
    assert found["HOPPER"] == policy.HOPPER


def test_what_is_shipped_and_wrong_here_gives_way(capsys):
    shipped = policy.HOPPER.backward[1]
    clock = MadeUpClock(lambda case: 1.0, lambda choice: tiling_of(choice) == shipped)
    found, _ = run(capsys, ["persistent-backward"], MadeUpCompiler(), clock, "--precision", "fast")
    assert found["HOPPER"].backward[1] != shipped
    assert found["HOPPER"].backward[2] == policy.HOPPER.backward[2]


def test_an_entry_that_is_slower_on_chip_is_left_out(capsys):
    """At 128 channels tiles through L2 are faster, below everything on chip is."""

    def cost(case):
        return 9.0 if isinstance(case.choice, OnChip) and case.choice.block_c == 128 else 1.0 + case.c / 1000

    found, captured = run(capsys, ["on-chip-forward"], MadeUpCompiler(), MadeUpClock(cost), "--precision", "fast")
    assert [choice.block_c for choice in found["HOPPER"].on_chip_forward[1]] == [16, 32, 64]
    assert "no entry for 128 channels" in captured.out


def test_the_rival_of_an_entry_on_chip_is_what_would_serve_its_channels():
    table = policy.HOPPER
    assert entry("on-chip-forward", "fast", 128, table, policy.COVARIANCE).rival == table.forward[1]
    assert entry("on-chip-forward", "fast", 32, table, policy.COVARIANCE).rival.block_c == 64
    largest = entry("on-chip-backward", "high", 32, table, policy.COVARIANCE)
    assert largest.rival == table.backward[2]
    (case, _) = largest.launches(None, HOPPER)
    assert case.choice == policy.persistent(case.b, 32, table.backward[2], HOPPER)


def test_forms_are_launched_as_the_backend_launches_them():
    for kernel, form in (("persistent-forward", Persistent), ("phases", Phases), ("covariance", Tiling)):
        one = entry(kernel, "fast" if kernel != "covariance" else "fast and high", 0, policy.HOPPER, policy.COVARIANCE)
        launches = one.launches(BEST_TILING, HOPPER)
        assert all(type(case.choice) is form for case in launches)
        assert {case.backward for case in launches} >= ({False} if form is Persistent else {False, True})
    assert {case.precision for case in launches} == {"fast", "high"}


def test_a_candidate_must_be_legal_wherever_its_table_serves():
    assert compiled_for("phases", 86) == (86, 80)
    assert shared_limit("phases", 80) == 99 * 1024
    assert shared_limit("phases", 90) == 227 * 1024
    assert compiled_for("covariance", 90) == (90, 80, 100, 120)
    assert shared_limit("covariance", 90) == 99 * 1024
    assert [table_name(arch) for arch in (80, 89, 90, 100, 103, 120)] == [
        "AMPERE", "AMPERE", "HOPPER", "BLACKWELL", "BLACKWELL", "BLACKWELL_CONSUMER",
    ]  # fmt: skip
    compiler = MadeUpCompiler()
    one = entry("phases", "fast", 0, policy.AMPERE, policy.COVARIANCE)
    search(one, Architecture(86, 84), compiler, MadeUpClock(likes), None, lambda text: None)
    assert compiler.asked == [((86, 80), 99 * 1024)]


def test_nothing_right_is_an_error():
    one = entry("phases", "fast", 0, policy.HOPPER, policy.COVARIANCE)
    with pytest.raises(RuntimeError, match="no option is legal and right"):
        search(one, HOPPER, MadeUpCompiler(), MadeUpClock(likes, lambda choice: True), None, lambda text: None)


@pytest.mark.parametrize("rule", RULES)
def test_thresholds_are_found_from_times(capsys, rule):
    """By phase is twice as fast exactly where the rule says so."""

    def cost(case):
        blocks = policy.HOPPER.phases[1].blocks(case.c)
        return 1.0 if isinstance(case.choice, Phases) == rule.wants_phases(case.b, case.m, blocks, 132) else 2.0

    found, captured = run(capsys, ["thresholds"], MadeUpCompiler(), MadeUpClock(cost))
    assert replace(found["HOPPER"], thresholds=policy.HOPPER.thresholds) == policy.HOPPER
    for case in tune_thresholds.cases(HOPPER, ("fast", "high")):
        asked = (case.b, case.m, policy.HOPPER.phases[1].blocks(case.c), 132)
        assert found["HOPPER"].thresholds.wants_phases(*asked) == rule.wants_phases(*asked)
    assert "loses 0.0 %" in captured.out


def test_thresholds_that_lose_nothing_stay(capsys):
    found, _ = run(capsys, ["thresholds"], MadeUpCompiler(), MadeUpClock(lambda case: 1.0))
    assert found["HOPPER"] == policy.HOPPER


def test_a_wrong_form_is_left_out_of_the_thresholds(capsys):
    clock = MadeUpClock(lambda case: 1.0, lambda choice: isinstance(choice, Phases) and choice.tiling is not None)
    with pytest.raises(RuntimeError, match="no pass is right in both forms"):
        tune.main(["thresholds"], compiler=MadeUpCompiler(), clock=clock, arch=HOPPER)
    assert "left out: " in capsys.readouterr().err


# --- the command ---


def typed(*arguments, environment=USERS):
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", "tune", *arguments],
        cwd=ROOT, env=environment, capture_output=True, text=True, timeout=600,
    )  # fmt: skip


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU here")
def test_it_refuses_without_a_gpu():
    done = typed("all")
    assert done.returncode == 2
    assert "needs a GPU that torch can use; --dry-run --arch 90" in done.stderr
    assert done.stdout == ""


@pytest.mark.thorough
def test_a_dry_run_lists_what_is_legal():
    done = typed(
        "on-chip-backward", "--precision", "fast", "--dry-run", "--arch", "90", "--only", "16, block_m=32, warps=1"
    )
    if "cannot compile kernels" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    blocks = done.stdout.strip().split("\n\n")
    assert len(blocks) == len(ON_CHIP_SIDES)
    smallest = blocks[-1].splitlines()
    assert smallest[0].startswith("on-chip-backward fast up to 16 channels, in HOPPER, compiled for sm_90; to be timed")
    assert f"  {OnChip(16, 32, warps=1)}, shipped" in smallest
    assert f"  no entry but {OnChip(32, 32, warps=2)}" in smallest
    assert smallest[-1] == "5 of 5 are legal"


REAL_ASSEMBLER = """
from benchmarks.tune.gpu import AheadOfTime
from benchmarks.tune.space import entry
from gcp_kernels.ops.triton_device import policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import OnChip
one = entry("on-chip-backward", "high", 32, policy.AMPERE, policy.COVARIANCE)
options = (OnChip(32, 16, warps=1), OnChip(16, 16, warps=1))
launches = [one.launches(option, Architecture(80, 108))[:1] for option in options]
launches[1] = [__import__("dataclasses").replace(launches[1][0], c=16)]
for limit in (99 << 10, 16):
    print([problems[:1] for problems in AheadOfTime(2).problems(launches, (80,), limit)])
"""


def test_the_assembler_finds_what_spills_and_what_needs_too_much_memory():
    done = subprocess.run(
        [sys.executable, "-c", REAL_ASSEMBLER], cwd=ROOT, env=USERS, capture_output=True, text=True, timeout=600
    )
    if done.returncode and "cuobjdump" in done.stderr:
        pytest.skip(done.stderr)
    assert done.returncode == 0, done.stderr
    enough, little = done.stdout.splitlines()
    assert re.fullmatch(r"\[\['\w+_on_chip_backward_kernel on sm_80: it (spills|does not compile).*'\], \[\]\]", enough)
    assert "bytes of shared memory, some GPU of its table gives 16" in little


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["walk"], "there is no kernel 'walk', but all, covariance"), ([], "required: KERNEL"),
        (["all", "--arch", "90"], "--arch is for --dry-run"), (["all", "--dry-run"], "--dry-run wants --arch N"),
        (["all", "--dry-run", "--arch", "75"], "invalid choice: 75"),
    ],
)  # fmt: skip
def test_bad_arguments_are_refused(arguments, said, capsys):
    with pytest.raises(SystemExit) as ending:
        tune.main(arguments)
    assert ending.value.code == 2
    assert said in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.own_part
def test_a_search_on_the_gpu():
    done = typed("on-chip-backward", "--precision", "fast", "--only", "block_m=32, warps=4, stages=2")
    assert done.returncode == 0, done.stderr
    assert [type(table) for table in evaluated(done.stdout).values()] == [Choices]
    assert not re.search("left out|is wrong", done.stderr)
