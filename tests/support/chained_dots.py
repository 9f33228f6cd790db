"""A product of a loop, compiled in several ways; prints what Triton made of its dots.

A program of its own, since in the process of a test kernels may be interpreted.
"""

import json
import re

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from benchmarks.codegen.stub_driver import StubDriver, stubbed
from benchmarks.codegen.waits import unwaited
from gcp_kernels.ops.triton_device.products import accumulate, accumulated


@triton.jit
def product(left, right, out, HOW: tl.constexpr, PLANES: tl.constexpr):
    """L R + R L, a step of it as a tangent's product is made."""
    rows, inner = tl.arange(0, 64), tl.arange(0, 32)
    total = tl.zeros((64, 64), tl.float32)
    for k in range(0, 256, 32):
        across = rows[:, None] * 256 + inner[None, :] + k
        down = (inner[:, None] + k) * 256 + rows[None, :]
        left_rows, left_columns = tl.load(left + across), tl.load(left + down)
        right_rows, right_columns = tl.load(right + across), tl.load(right + down)
        if HOW == "chained":
            total = tl.dot(left_rows, right_columns, total)
            total = tl.dot(right_rows, left_columns, total)
        elif HOW == "added":
            total += tl.dot(left_rows, right_columns)
        else:
            total = accumulate(left_rows, left_rows, right_columns, right_columns, total, PLANES)
            total = accumulate(right_rows, right_rows, left_columns, left_columns, total, PLANES)
    tl.store(out + rows[:, None] * 64 + rows[None, :], accumulated(total, PLANES))


def compiled(how: str, planes: int, capability: int) -> dict[str, str]:
    """Its intermediate forms."""
    source = ASTSource(
        fn=product,
        signature={"left": "*fp16", "right": "*fp16", "out": "*fp32", "HOW": "constexpr", "PLANES": "constexpr"},
        constexprs={(3,): how, (4,): planes},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(3)},
    )
    with stubbed(StubDriver(capability)):
        forms: dict[str, str] = compile(source, target=GPUTarget("cuda", capability, 32), options={"num_warps": 4}).asm
    return forms


def goes_on(how: str, planes: int, capability: int) -> bool:
    """Whether a dot adds to the sum of earlier steps, which the loop carries on, and not to zero or to another dot."""
    code = compiled(how, planes, capability)["ttir"]
    (carried,) = re.findall(r"iter_args\((%[\w.]+) = ", code)
    accumulators = re.findall(r"tt\.dot %[\w.]+, %[\w.]+, (%[\w.]+)", code)
    assert accumulators
    return carried in accumulators


if __name__ == "__main__":
    waits = {how: unwaited(compiled(how, 1, 100)["ttgir"]) for how in ("chained", "shipped")}
    waits["shipped, high"] = unwaited(compiled("shipped", 2, 100)["ttgir"])
    onwards = {
        f"{how} {planes} sm_{capability}": goes_on(how, planes, capability)
        for how, planes, capability in (
            ("added", 1, 90),
            ("shipped", 1, 90),
            ("shipped", 2, 80),
            ("shipped", 2, 90),
            ("shipped", 2, 100),
            ("shipped", 1, 100),
            ("shipped", 2, 120),
        )
    }
    print(json.dumps([waits, onwards]))
