"""Programs that call the extension's own operators: which call is in them, what they refuse, and values on a GPU."""

import pytest
import torch
from torch import nn

import gcp_kernels
from gcp_kernels.nn import GCP
from gcp_kernels.ops.cuda_device import backend
from tests.support.extension import built, gpu

OPERATORS = torch.ops.gcp_kernels_cuda


def exported(layer: nn.Module, *shape: int, dtype=torch.float32, device="cpu", open_sizes=()):
    x = torch.relu(torch.randn(shape, device=device)).to(dtype)
    return torch.export.export(
        layer.eval(), (x,), dynamic_shapes=(dict.fromkeys(open_sizes, torch.export.Dim.DYNAMIC),)
    )


def calls(program) -> list[tuple]:
    """List the calls of the extension: their names and options."""
    nodes = [node for node in program.graph.nodes if getattr(node.target, "namespace", "") == "gcp_kernels_cuda"]
    return [
        (node.target.name().split("::")[1], *(arg for arg in node.args if not hasattr(arg, "op"))) for node in nodes
    ]


@built
@pytest.mark.parametrize(
    ("layer", "shape", "dtype", "called"),
    [
        (GCP(32, dim=None), (2, 32, 7, 7), torch.float32, ("isqrt_pool_inference", 5, True, 2, False)),
        (GCP(64, dim=None, n_iter=3), (2, 64, 4, 4), torch.bfloat16, ("isqrt_pool_inference", 3, True, 1, True)),
        (
            GCP(8, dim=None, normalization="none", output="full", precision="fast"),
            (2, 8, 3, 3),
            torch.float32,
            ("covariance_pool_inference", None, False, 1),
        ),
    ],
)
def test_the_call_has_the_options_of_the_operator(layer, shape, dtype, called, monkeypatch):
    monkeypatch.setattr(backend, "why_not", lambda *_: None)  # that the tensor is not on a GPU
    program = exported(layer, *shape, dtype=dtype, open_sizes=(0,))
    replaced = gcp_kernels.export.use_extension(program)
    assert calls(replaced) == [called]
    (output,) = replaced.graph.output_node().args[0]
    assert output.meta["val"].shape[1:] == layer(torch.ones(shape)).shape[1:]
    assert output.meta["val"].dtype == dtype


@built
def test_what_has_no_kernel_at_all_is_decomposed(monkeypatch):
    monkeypatch.setattr(backend, "why_not", lambda *_: None)

    class Root(nn.Module):
        def forward(self, x):
            return gcp_kernels.triu_vec(gcp_kernels.newton_schulz_sqrt(gcp_kernels.covariance_pool(x)))

    replaced = gcp_kernels.export.use_extension(exported(Root(), 2, 8, 3, 3))
    assert [name for name, *_ in calls(replaced)] == ["covariance_pool_inference", "triu_vec"]
    assert not any("gcp_kernels." in str(node.target) for node in replaced.graph.nodes)


@built
def test_what_cannot_run_is_refused_with_the_reason():
    program = exported(GCP(8, dim=None), 2, 8, 3, 3)
    with pytest.raises(RuntimeError, match=r"cannot run isqrt_pool in this program: it needs a CUDA tensor.*decompose"):
        gcp_kernels.export.use_extension(program)
    program = exported(GCP(8, dim=None), 2, 8, 3, 3, open_sizes=(2, 3))
    with pytest.raises(
        ValueError, match=r"takes isqrt_pool of fixed channels and positions.*fix the size of the images"
    ):
        gcp_kernels.export.use_extension(program)


def test_without_the_extension_both_functions_say_why(monkeypatch):
    monkeypatch.setattr(gcp_kernels.ops.cuda_device.extension, "why_not_loaded", lambda: "extension not built: no nvcc")
    program = exported(GCP(8, dim=None), 2, 8, 3, 3)
    for call in (gcp_kernels.export.extension_library, lambda: gcp_kernels.export.use_extension(program)):
        with pytest.raises(RuntimeError, match="extension not built: no nvcc"):
            call()


@built
def test_the_library_is_the_module_that_python_imports():
    assert gcp_kernels.export.extension_library() == gcp_kernels.export.extension_library().resolve()
    assert gcp_kernels.export.extension_library().name.startswith("_C.")


class TestOnGpu:
    pytestmark = gpu

    @pytest.mark.parametrize(("c", "m"), [(32, 49), (64, 16), (256, 196)])
    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
    def test_a_program_gives_the_bits_of_the_backend(self, c, m, dtype):
        for layer in (GCP(c, dim=None, backend="cuda"), GCP(c, dim=None, normalization="none", backend="cuda")):
            program = exported(layer, 3, c, m, 1, dtype=dtype, device="cuda", open_sizes=(0,))
            x = torch.relu(torch.randn(5, c, m, 1, device="cuda")).to(dtype)
            assert torch.equal(gcp_kernels.export.use_extension(program).module()(x), layer(x))

    def test_opcheck(self):
        gcp_kernels.export.use_extension(exported(GCP(8, dim=None), 2, 8, 3, 3, device="cuda"))  # registers the fakes
        x, scale = torch.randn(3, 20, 7, device="cuda"), torch.randn(3, 20, device="cuda")
        for operator, arguments in (
            (OPERATORS.isqrt_pool_inference, (x, 3, True, 1, False)),
            (OPERATORS.isqrt_pool_inference, (x, 3, False, 2, True)),
            (OPERATORS.covariance_pool_inference, (x, scale, True, 2)),
        ):
            torch.library.opcheck(operator.default, arguments, test_utils=("test_schema", "test_faketensor"))
        with pytest.raises(RuntimeError, match=r"isqrt_pool_inference: x must have shape \(B, C, M\), got \(20, 7\)"):
            OPERATORS.isqrt_pool_inference(x[0], 3, True, 1, False)
