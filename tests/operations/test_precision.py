"""Which precision an operator takes, and torch's global settings of matrix products around it."""

import threading
from collections.abc import Callable

import pytest
import torch

from gcp_kernels import fused_gcp, matmul_setting
from gcp_kernels.matmul_setting import MatmulSetting
from gcp_kernels.ops.torch_device.products import iteration_precision, matmul_precision
from gcp_kernels.precision import resolve_precision

pytestmark = pytest.mark.versions

CUDA_MATMUL = torch.backends.cuda.matmul
MKLDNN = torch.backends.mkldnn


@pytest.fixture(autouse=True)
def settings_as_torch_starts_with():
    yield
    torch.set_float32_matmul_precision("highest")
    for setting in (CUDA_MATMUL, MKLDNN.matmul, MKLDNN, torch.backends):
        setting.fp32_precision = "none"


def run_at_once(function: Callable[[], None], times: int) -> None:
    threads = [threading.Thread(target=function) for _ in range(times)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


class FakeSetting:
    """Stands for one of torch's settings objects, without a hierarchy."""

    fp32_precision = "none"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("precision", ["fast", "high"])
def test_an_explicit_precision_is_taken(dtype, precision):
    assert resolve_precision(precision, dtype) == precision


@pytest.mark.parametrize("precision", ["fast", "high", "default"])
def test_float64_is_always_high(precision):
    assert resolve_precision(precision, torch.float64) == "high"


@pytest.mark.parametrize(("setting", "expected"), [("highest", "high"), ("high", "fast"), ("medium", "fast")])
def test_default_follows_the_permission_for_tf32(setting, expected):
    torch.set_float32_matmul_precision(setting)
    assert resolve_precision("default", torch.float32) == expected
    assert resolve_precision("default", torch.bfloat16) == "fast"


def test_default_follows_the_newer_setting_too():
    CUDA_MATMUL.fp32_precision = "tf32"
    assert resolve_precision("default", torch.float32) == "fast"


def test_an_unknown_precision_is_refused():
    with pytest.raises(ValueError, match="'hihg'"):
        resolve_precision("hihg", torch.float32)


@pytest.mark.parametrize(("precision", "inside"), [("fast", "tf32"), ("high", "ieee")])
@pytest.mark.parametrize("outside", ["tf32", "ieee"])
def test_products_on_a_gpu_run_as_asked_and_the_setting_comes_back(precision, inside, outside):
    CUDA_MATMUL.fp32_precision = outside
    with matmul_precision(torch.device("cuda"), torch.float32, precision):
        assert CUDA_MATMUL.fp32_precision == inside
    assert CUDA_MATMUL.fp32_precision == outside


def test_an_iteration_runs_in_float32_whatever_is_allowed():
    CUDA_MATMUL.fp32_precision = "tf32"
    with iteration_precision(torch.device("cuda"), torch.float32, "fast"):
        assert CUDA_MATMUL.fp32_precision == "ieee"
    assert CUDA_MATMUL.fp32_precision == "tf32"


def test_default_is_what_the_user_set_also_while_another_value_is_held():
    with matmul_precision(torch.device("cuda"), torch.float32, "fast"):
        assert CUDA_MATMUL.fp32_precision == "tf32"
        assert resolve_precision("default", torch.float32) == "high"


def test_the_setting_comes_back_after_an_error():
    CUDA_MATMUL.fp32_precision = "ieee"
    with pytest.raises(KeyError), matmul_precision(torch.device("cuda"), torch.float32, "fast"):
        raise KeyError
    assert CUDA_MATMUL.fp32_precision == "ieee"


def test_an_inherited_value_stays_inherited():
    MKLDNN.fp32_precision = "bf16"
    fused_gcp(torch.randn(2, 8, 9))
    assert MKLDNN.matmul.fp32_precision == "bf16"
    MKLDNN.fp32_precision = "ieee"
    assert MKLDNN.matmul.fp32_precision == "ieee"


def test_a_cpu_computes_in_float32_whatever_the_setting_allows():
    x = torch.relu(torch.randn(4, 128, 49))
    exact = fused_gcp(x)
    torch.set_float32_matmul_precision("medium")  # bfloat16 products, on processors that have them
    assert torch.equal(fused_gcp(x, precision="fast"), exact)
    assert torch.get_float32_matmul_precision() == "medium"


def test_threads_that_want_different_values_wait_for_each_other():
    setting, torch_setting = MatmulSetting(FakeSetting), FakeSetting
    torch_setting.fp32_precision = "none"
    inside, leave, order = threading.Event(), threading.Event(), []

    def fast():
        with setting.hold("tf32"):
            inside.set()
            leave.wait(timeout=30)
            order.append(("fast", torch_setting.fp32_precision))

    def high():
        inside.wait(timeout=30)
        with setting.hold("ieee"):
            order.append(("high", torch_setting.fp32_precision))

    threads = [threading.Thread(target=fast), threading.Thread(target=high)]
    for thread in threads:
        thread.start()
    inside.wait(timeout=30)
    assert setting.users_value == "none"
    threads[1].join(timeout=0.2)
    assert threads[1].is_alive(), "the second thread did not wait"
    leave.set()
    for thread in threads:
        thread.join(timeout=30)
    assert order == [("fast", "tf32"), ("high", "none")]
    assert torch_setting.fp32_precision == "none"


def test_threads_that_want_the_same_value_run_together():
    setting = MatmulSetting(FakeSetting)
    both_inside = threading.Barrier(2, timeout=30)
    failures = []

    def hold():
        try:
            with setting.hold("tf32"):
                both_inside.wait()
        except threading.BrokenBarrierError:
            failures.append("waited")

    run_at_once(hold, times=2)
    assert not failures


def test_results_are_right_in_several_threads_at_once():
    MKLDNN.matmul.fp32_precision = "bf16"
    x = torch.relu(torch.randn(16, 128, 49))
    expected = fused_gcp(x, precision="high")
    wrong = []

    def pool():
        wrong.extend(1 for _ in range(8) if not torch.equal(fused_gcp(x, precision="high"), expected))

    run_at_once(pool, times=4)
    assert not wrong
    assert MKLDNN.matmul.fp32_precision == "bf16"
    assert matmul_setting.CPU.users_value == "bf16"
