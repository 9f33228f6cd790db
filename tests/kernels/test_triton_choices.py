"""What the Triton backend runs and what it refuses, the form of launch for each shape, and rules its sources keep."""

import ast
import dataclasses
import importlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from gcp_kernels import fused_gcp
from gcp_kernels.ops import backends
from gcp_kernels.ops.sides import POSITIONS
from gcp_kernels.ops.triton_device import backend, policy
from gcp_kernels.ops.triton_device.architecture import Architecture
from gcp_kernels.ops.triton_device.policy import OnChip, Persistent, Phases, Tiling
from tests.support import inputs
from tests.support import triton_forms as forms
from tests.support.kernel_sources import SOURCES, module_name

pytestmark = pytest.mark.versions

KERNELS = [*SOURCES]
SERVED = ("isqrt_pool", "covariance_pool", "newton_schulz_sqrt")


@forms.runs_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize("operation", SERVED)
def test_what_it_runs(operation, dtype):
    assert backend.why_not(operation, torch.empty(2, 3, 3, dtype=dtype, device=forms.DEVICE)) is None
    assert backend.why_not(operation, torch.empty(1, 1, 1, dtype=dtype, device=forms.DEVICE).expand(1, 8192, 4)) is None


@forms.runs_here
@pytest.mark.parametrize("operation", SERVED)
def test_what_it_refuses(operation):
    assert "float64" in backend.why_not(operation, torch.empty(2, 3, 3, dtype=torch.float64, device=forms.DEVICE))
    wide = torch.empty(1, 1, 1, device=forms.DEVICE).expand(1, 8193, 4)
    assert "8192 channels, got 8193" in backend.why_not(operation, wide)
    assert backend.why_not(operation, torch.empty(2, 3, 3, device="meta"))


@pytest.mark.parametrize("operation", ["triu_vec", "triu_unvec"])
def test_triangles_have_no_kernel(operation):
    assert f"{operation} has no Triton kernel" in backend.why_not(operation, torch.ones(1, 1, 1))
    with pytest.raises(RuntimeError, match="no Triton kernel"):
        backends.select(operation, torch.ones(1, 1, 1), "triton")


@forms.runs_here
def test_float64_asked_for_by_name_raises():
    with pytest.raises(RuntimeError, match=r"backend='triton' cannot run isqrt_pool: .*float64"):
        fused_gcp(torch.ones(1, 2, 3, dtype=torch.float64, device=forms.DEVICE), backend="triton")


def test_the_cpu_is_refused_unless_kernels_are_interpreted():
    """In a process of its own, since the interpreter is chosen once; nothing is imported before it is needed."""
    pytest.importorskip("triton")
    program = (
        "import sys, torch, gcp_kernels\n"
        "from gcp_kernels.ops.triton_device import backend\n"
        "print(backend.why_not('isqrt_pool', torch.ones(1, 2, 3)), backend.status(), sep='\\n')\n"
        "assert not set(sys.argv[1:]) & set(sys.modules)\n"
    )
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    path = os.pathsep.join(
        [str(Path(backend.__file__).parents[3]), *environment.get("PYTHONPATH", "").split(os.pathsep)]
    )
    done = subprocess.run(
        [sys.executable, "-c", program, *map(module_name, SOURCES)],
        env={**environment, "PYTHONPATH": path}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    reason, status = done.stdout.splitlines()
    assert reason == "it needs a CUDA tensor, got one on cpu"
    assert "serves isqrt_pool" in status
    assert "interpreted" not in status


def test_devices_and_installations_it_refuses(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    monkeypatch.setattr(torch.version, "hip", None)
    assert "compute capability 8.0" in backend._why_not_device.__wrapped__(3)
    assert "cuda:3 has 7.5" in backend._why_not_device.__wrapped__(3)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (8, 0))
    assert backend._why_not_device.__wrapped__(0) is None
    for capability in ((10, 0), (10, 3), (11, 0)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, found=capability: found)
        reason = backend._why_not_device.__wrapped__(1)
        assert "not yet shown right on compute capability 10.x" in reason
        assert f"cuda:1 has {capability[0]}.{capability[1]}" in reason
    for capability in ((9, 0), (12, 0), (12, 1)):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index, found=capability: found)
        assert backend._why_not_device.__wrapped__(0) is None
    monkeypatch.setattr(torch.version, "hip", "6.4")
    assert "NVIDIA" in backend._why_not_device.__wrapped__(0)

    reason = "Triton cannot be imported: there is none"
    monkeypatch.setattr(backend, "_why_not_imported", lambda: reason)
    assert backend.why_not("isqrt_pool", torch.ones(1, 2, 3)) == reason
    assert backend.status() == f"unavailable: {reason}"


def test_triton_that_is_not_installed_is_a_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert "Triton cannot be imported" in backend._why_not_imported.__wrapped__()


def test_forms_by_shape():
    arch = Architecture(90, 132)
    assert isinstance(policy.isqrt_forward(256, 64, 196, "fast", arch), OnChip)
    assert isinstance(policy.isqrt_forward(256, 129, 196, "fast", arch), Persistent)
    assert isinstance(policy.isqrt_backward(256, 33, 196, "fast", arch), Persistent)
    assert isinstance(policy.isqrt_forward(1, 64, 4096, "fast", arch), OnChip)
    assert isinstance(policy.isqrt_forward(1, 64, 4097, "fast", arch), Phases)
    assert isinstance(policy.isqrt_forward(66, 64, 4097, "fast", arch), OnChip)
    assert isinstance(policy.isqrt_forward(65, 129, 196, "high", arch), Phases)
    assert isinstance(policy.isqrt_forward(66, 129, 196, "high", arch), Persistent)
    assert isinstance(policy.sqrt_forward(66, 129, "high", arch), Persistent)
    for choose in (policy.isqrt_forward, policy.isqrt_backward):
        for b in (1, 1000):
            on_chip = choose(b, 2048, 49, "high", arch)
            assert isinstance(on_chip, OnChip)
            assert on_chip.side == POSITIONS
    several = policy.isqrt_forward(1, 64, 100_000, "fast", arch)
    assert several.splits > 1


def run_on(arch: Architecture, monkeypatch: pytest.MonkeyPatch) -> None:
    """Forms are chosen for this architecture."""
    isqrt = importlib.import_module("gcp_kernels.ops.isqrt_pool.triton.launch")
    monkeypatch.setattr(isqrt, "architecture", lambda device: arch)


@forms.runs_here
@pytest.mark.usefixtures("poisoned_memory")
@pytest.mark.parametrize(("b", "c", "m", "form"), [(1, 130, 130, Phases), (5, 70, 70, Persistent), (2, 64, 33, OnChip)])
def test_shipped_launches(b, c, m, form, monkeypatch):
    arch = Architecture(90, 40 if form is Phases else 1)
    run_on(arch, monkeypatch)
    assert isinstance(policy.isqrt_forward(b, c, m, "high", arch), form)
    forms.check_pooling(inputs.relu_features(b, c, m, torch.float32), 1, "high", "triu")


@forms.runs_here
@pytest.mark.usefixtures("poisoned_memory")
def test_many_positions(monkeypatch):
    """More than 4096, of few samples, in the parts that the shape asks for; in strips of 256, to be done soon."""
    arch = Architecture(90, 40)
    run_on(arch, monkeypatch)
    tilings = {planes: Tiling(16, block_k=16, block_m=256, warps=4) for planes in (1, 2)}
    monkeypatch.setattr(policy, "HOPPER", dataclasses.replace(policy.HOPPER, phases=tilings))
    for choose in (policy.isqrt_forward, policy.isqrt_backward):
        assert choose(1, 3, 4099, "high", arch) == Phases(tilings[2], splits=9, chunk=512)
    forms.check_pooling(inputs.relu_features(1, 3, 4099, torch.float32), 3, "high", "full")


@forms.runs_here
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_an_empty_batch_launches_nothing(dtype, monkeypatch):
    # All before any is changed: one that is imported later would keep what it finds.
    rooms = ("isqrt_pool.triton.launch", "covariance_pool.triton.launch", "newton_schulz_sqrt.triton")
    for module in [importlib.import_module(f"gcp_kernels.ops.{room}") for room in rooms]:
        for name in ("launch_forward", "launch_backward"):
            monkeypatch.setattr(module, name, lambda *_: pytest.fail("a launch for no samples"))
    x, cov = torch.empty(0, 4, 9, dtype=dtype), torch.empty(0, 4, 4, dtype=dtype)
    for function, given, shape in (
        (forms.pool(), x, (0, 10)),
        (forms.pool(output="full"), x, (0, 4, 4)),
        (forms.root(), cov, (0, 4, 4)),
        (forms.covariance(torch.empty(0, 4, device=forms.DEVICE)), x, (0, 4, 4)),
        (forms.covariance(output="triu"), x, (0, 10)),
    ):
        value, gradient = forms.run(function, given, torch.empty(shape, dtype=dtype))
        assert value.shape == shape
        assert gradient.shape == given.shape
        assert value.dtype == gradient.dtype == dtype


def calls_of(path: Path) -> list[tuple[str, ast.Call]]:
    """Every call of a source file, by the dotted name of what is called."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return [(ast.unparse(node.func), node) for node in ast.walk(tree) if isinstance(node, ast.Call)]


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.stem)
def test_rules_of_kernel_sources(path):
    """What the interpreter cannot show, or forgives."""
    for name, call in calls_of(path):
        given = {keyword.arg for keyword in call.keywords}
        at = f"{path.name}:{call.lineno}"
        if name == "tl.load" and (len(call.args) > 1 or "mask" in given):
            # Masked elements are undefined on a GPU, and zero in the interpreter.
            assert "other" in given or len(call.args) > 2, f"{at}: a masked load without other="
        if name == "tl.program_id":
            # The other two dimensions of a grid end at 65535.
            assert [ast.unparse(argument) for argument in (*call.args, *call.keywords)] == ["0"], at
        assert not name.startswith("tl.atomic"), f"{at}: sums in another order in every run"
        assert "autotune" not in name, f"{at}: choices are in policy.py"
        assert "inline_asm" not in name, at
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for function in (node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        (decorator,) = (ast.unparse(decorator) for decorator in function.decorator_list)
        expected = "triton.constexpr_function" if function.name == "chained" else "triton.jit"
        # Kernels say what they are not specialised on, see test_triton_recompiles.
        assert decorator.partition("(do_not_specialize=")[0] == expected, function.name


def test_kernel_sources_were_found():
    assert len(KERNELS) >= 10
    names = [name for path in KERNELS for name, _ in calls_of(path)]
    assert names.count("tl.load") > 20
    assert names.count("tl.program_id") >= 5
