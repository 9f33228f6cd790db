"""What Triton makes of dots that follow one another; the walk that finds one read before it has ended."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("triton", reason="the code is Triton's")

import triton

from benchmarks.codegen.waits import unwaited

pytestmark = [pytest.mark.same_without_gpu, pytest.mark.versions]

ROOT = Path(__file__).parents[2]
COMPILING = {
    **{name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"},
    "PYTHONPATH": str(ROOT),
}


@pytest.fixture(scope="module")
def dots():
    """Give what is unwaited for by the way in which dots are written, and which go on with the sum of a loop."""
    done = subprocess.run(
        [sys.executable, str(ROOT / "tests" / "support" / "chained_dots.py")],
        cwd=ROOT, env=COMPILING, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_dots_in_one_accumulator_are_found_and_dots_in_their_own_are_not(dots):
    """What was shipped before, as the Triton that is here compiles it, and what is shipped now."""
    waits, _ = dots
    assert waits["shipped"] == waits["shipped, high"] == []
    if tuple(map(int, triton.__version__.split(".")[:3])) <= (3, 7, 1):
        assert waits["chained"]
        assert all("tmem_load" in access for access in waits["chained"])


def test_triton_leaves_fresh_accumulators_fresh(dots):
    """A dot that is added to a sum as it is goes into the sum's accumulator; one that is unlifted first does not."""
    _, onwards = dots
    assert onwards.pop("added 1 sm_90"), "else nothing is shown by the others"
    assert onwards.pop("shipped 1 sm_90")
    assert not any(onwards.values()), onwards
    assert len(onwards) == 5


def module(*lines: str) -> str:
    return "\n".join(["module attributes {} {", "tt.func public @kernel(%a: i32 loc(unknown)) {", *lines, "}", "}"])


def begin(memory: str = "%sum", barrier: str = "%bar", condition: str = "%true") -> str:
    return f"ttng.tc_gen5_mma %l, %r, {memory}, %true, {condition}, {barrier}[%true] {{is_async}} : !ttg.memdesc<1xi64>"


def wait(barrier: str = "%bar") -> str:
    return f"ttng.wait_barrier {barrier}, %phase deps %l, %r : !ttg.memdesc<1xi64>"


def load(memory: str = "%sum") -> str:
    return f"%value = ttng.tmem_load {memory} : !ttg.memdesc<64x64xf32> -> tensor<64x64xf32> loc(#loc1)"


def loop(*body: str, start: str = "%bar", last: str = "%next") -> list[str]:
    head = f"%end:2 = scf.for %k = %c0 to %c8 step %c1 iter_args(%i = %c0, %before = {start}) -> (i32, i64) : i32 {{"
    return [head, *body, f"scf.yield %i, {last} : i32, i64", "}"]


def branch(condition: str, *body: str) -> list[str]:
    return [f"scf.if {condition} {{", *body, "}"]


STORE = "ttng.tmem_store %value, %sum, %true : tensor<64x64xf32> -> !ttg.memdesc<64x64xf32>"
NEXT = "%next = ttg.memdesc_index %bars[%i] : !ttg.memdesc<2xi64>"

RIGHT = {
    "waited for": [begin(), wait(), load()],
    "another accumulator": [begin(), load("%other")],
    "a later product waited for": [begin(), begin("%other", "%later"), wait("%later"), load()],
    "waited for in the next trip": [begin(), *loop(wait("%before"), load(), NEXT, begin(barrier="%next")),
                                    wait("%end#1"), load()],
    "no trip, no product, no wait": [begin(condition="%some"), *branch("%some", wait()), load()],
    "committed apart": ["ttng.tc_gen5_mma %l, %r, %sum, %true, %true : i1", "ttng.tc_gen5_commit %bar : i64", wait(),
                        load()],
}  # fmt: skip
WRONG = {
    "not waited for": [begin(), load()],
    "written over": [begin(), STORE],
    "an earlier product waited for": [begin("%other", "%first"), begin(), wait("%first"), load()],
    "waited for on one of two ways": [begin(), *branch("%some", wait()), load()],
    "begun on one of two ways": [*branch("%some", begin()), load()],
    "by another name": [begin(), "%view = ttg.memdesc_index %sum[%i] : f32", load("%view")],
    "after the loop": [*loop(NEXT, begin(barrier="%next")), load()],
    "in the next trip": loop(load(), NEXT, begin(barrier="%next")),
    "another barrier in the next trip": [begin(), *loop(wait("%bar"), load(), NEXT, begin(barrier="%next"))],
}


@pytest.mark.parametrize("lines", RIGHT.values(), ids=RIGHT)
def test_what_is_waited_for(lines):
    assert unwaited(module(*lines)) == []


@pytest.mark.parametrize("lines", WRONG.values(), ids=WRONG)
def test_what_is_not_waited_for(lines):
    (access,) = unwaited(module(*lines))
    assert access.startswith(("%value = ttng.tmem_load", "ttng.tmem_store"))
    assert "loc(" not in access


def test_what_is_no_code_is_refused():
    with pytest.raises(ValueError, match="0 modules"):
        unwaited("nothing")
    with pytest.raises(ValueError, match="no function"):
        unwaited("module attributes {} {\n}")
