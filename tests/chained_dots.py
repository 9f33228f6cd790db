"""Products of a loop for capability 10.x, chained in one accumulator and not; prints what is read before its wait.

A program of its own, since in the process of a test kernels may be interpreted.
"""

import json

import triton
import triton.language as tl
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile

from benchmarks.static_waits import unwaited
from benchmarks.stub_driver import StubDriver, stubbed
from gcp_kernels.backends.triton.kernels.arithmetic import accumulate, accumulated


@triton.jit
def chained(left, right, out, CHAINED: tl.constexpr):
    """L R + R L, a step of it as a tangent's product is made."""
    rows, inner = tl.arange(0, 64), tl.arange(0, 32)
    total = tl.zeros((64, 64), tl.float32)
    for k in range(0, 256, 32):
        across = rows[:, None] * 256 + inner[None, :] + k
        down = (inner[:, None] + k) * 256 + rows[None, :]
        left_rows, left_columns = tl.load(left + across), tl.load(left + down)
        right_rows, right_columns = tl.load(right + across), tl.load(right + down)
        if CHAINED:
            total = tl.dot(left_rows, right_columns, total)
            total = tl.dot(right_rows, left_columns, total)
        else:
            total = accumulate(left_rows, left_rows, right_columns, right_columns, total, 1)
            total = accumulate(right_rows, right_rows, left_columns, left_columns, total, 1)
    tl.store(out + rows[:, None] * 64 + rows[None, :], accumulated(total, 1))


def ttgir(in_one_accumulator: bool) -> str:
    source = ASTSource(
        fn=chained,
        signature={"left": "*fp16", "right": "*fp16", "out": "*fp32", "CHAINED": "constexpr"},
        constexprs={(3,): in_one_accumulator},
        attrs={(index,): [["tt.divisibility", 16]] for index in range(3)},
    )
    with stubbed(StubDriver(100)):
        text: str = compile(source, target=GPUTarget("cuda", 100, 32), options={"num_warps": 4}).asm["ttgir"]
    assert text.count("ttng.tc_gen5_mma ") >= 2
    return text


if __name__ == "__main__":
    print(json.dumps([unwaited(ttgir(in_one_accumulator)) for in_one_accumulator in (True, False)]))
