"""Samples of a profile, shared out among the phases of a walk through the same machine code."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.codegen.cost_model import profile as predict_profile
from benchmarks.codegen.cost_model.profile import Profile, described

pytestmark = pytest.mark.same_without_gpu

HEAD = '"Address","Source","Samples","stall_barrier","stall_wait","stall_wait (Not Issued)"\n'
NAME = '"Kernel Name","void gcp_kernels::isqrt_pool_forward_kernel<(gcp_kernels::Form){}, (int){}>(gcp_kernels::A)",\n'
OTHER = '"Kernel Name","void at::native::vectorized_elementwise_kernel<(int)4>(int)",\n'


def written(path, *parts):
    path.write_text("".join(parts), encoding="utf-8")
    return path


def phases(*warps):
    """Give a stand-in whose warps issue (number, phase, whether it is a barrier) one after another."""
    found = [tuple(np.array(column) for column in zip(*warp, strict=True)) for warp in warps]
    return SimpleNamespace(issued=lambda: iter(found))


def kernel(count):
    return SimpleNamespace(instructions=[None] * count)


def test_kernels_are_read_one_after_another_and_others_left_out(tmp_path):
    path = written(
        tmp_path / "profile.csv",
        NAME.format(0, 1), HEAD, '"0","A","9","1","2","3"\n', '"16","B","9","","1,024","3"\n',
        OTHER, HEAD, '"0","A","9","1","2","3"\n',
        NAME.format(3, 2), HEAD, '"0","A","9","5","6","7"\n',
    )  # fmt: skip
    first, second = predict_profile.read(path)
    assert (first.name, first.variant) == ("isqrt_pool_forward_kernel", "small fast")
    assert {reason: list(numbers) for reason, numbers in first.samples.items()} == {
        "barrier": [1, 0],
        "wait": [2, 1024],
    }
    assert (second.variant, list(second.samples["wait"])) == ("streamed high", [6])


def test_a_file_without_a_pooling_kernel_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"profile\.csv has no profile of a pooling kernel"):
        predict_profile.read(written(tmp_path / "profile.csv", OTHER, HEAD, '"0","A","9","1","2","3"\n'))


def test_samples_go_to_the_phases_that_issue_the_instruction():
    """Instruction 1 is issued once in one phase and three times in the other."""
    profile = Profile("k", "v", {"wait": np.array([10.0, 40.0, 7.0])})
    walk = phases(
        [(0, "a", False), (1, "a", False), (1, "b", False)], [(1, "b", False), (1, "b", False), (2, "b", False)]
    )
    assert profile.of_phases(kernel(3), walk) == {"a": {"wait": 20.0}, "b": {"wait": 37.0}}


def test_a_wait_for_a_barrier_belongs_to_the_phase_that_it_ends():
    """It is seen at instructions further on, which another phase issues; before the first barrier it stays."""
    profile = Profile("k", "v", {"barrier": np.array([2.0, 0.0, 30.0, 5.0]), "wait": np.array([1.0, 1.0, 1.0, 1.0])})
    walk = phases([(0, "a", False), (1, "a", True), (2, "b", False), (3, "b", False), (1, "b", True)])
    found = profile.of_phases(kernel(4), walk)
    assert found == {"a": {"barrier": 37.0, "wait": 1.5}, "b": {"wait": 2.5}}
    assert described(found, "a") == " 94 % (barrier 96 %, wait 4 %)"
    assert described(found, "c") == "  0 % ()"


def test_a_profile_of_other_machine_code_is_refused():
    profile = Profile("k", "small fast", {"wait": np.zeros(3)})
    with pytest.raises(ValueError, match="profile of k small fast is of other machine code"):
        profile.of_phases(kernel(4), phases([(0, "a", False)]))
