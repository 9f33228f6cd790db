"""Networks with our layers as ONNX models: the same scores in ONNX Runtime, of any batch and size, or a refusal."""

from collections import Counter

import pytest
import torch
from torch import Tensor, nn

import gcp_kernels
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance, TokenFusionHead
from tests.support import tolerances

# torch.onnx.export wants onnxscript besides.
for module in ("onnx", "onnxscript"):
    pytest.importorskip(module)
onnxruntime = pytest.importorskip("onnxruntime")

PROMISED = 1e-5


class Heads(nn.Module):
    """Every layer and function that ONNX can express, each behind the same features, as an output of its own."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 40, 3, stride=4), nn.ReLU())
        self.isqrt = nn.Sequential(GCP(40, dim=24), nn.Linear(24 * 25 // 2, 10))
        self.wide = GCP(40, dim=None, output="full")
        self.plain = GCP(40, dim=24, normalization="none")
        self.elementwise = GCP(40, dim=24, normalization="elementwise")
        self.dropcov = DropCov(40, dim=24)
        self.tokens = GCP(40, dim=24, channel_dim=-1, n_iter=1)
        self.heads = MultiHeadCrossCovariance(40, num_heads=2, head_dim=8)
        self.fusion = TokenFusionHead(40, MultiHeadCrossCovariance(40, num_heads=2, head_dim=8), 10)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        features = self.stem(images)
        tokens = features.flatten(2).mT
        outputs = {name: getattr(self, name)(features) for name in ("isqrt", "wide", "plain", "elementwise", "dropcov")}
        outputs |= {name: getattr(self, name)(tokens) for name in ("tokens", "heads", "fusion")}
        cov = gcp_kernels.covariance_pool(features)
        inverse = gcp_kernels.newton_schulz_inverse_sqrt(cov)
        root = gcp_kernels.newton_schulz_sqrt(cov, n_iter=2)
        vector = gcp_kernels.triu_vec(root)
        return outputs | {"inverse": inverse, "root": root, "vector": vector, "matrix": gcp_kernels.triu_unvec(vector)}


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(0)
    return Heads().eval()


@pytest.fixture(scope="module")
def of_any_size(network: nn.Module) -> torch.onnx.ONNXProgram:
    return export(network, torch.randn(2, 3, 16, 16), 0, 2, 3)


def run(program: torch.onnx.ONNXProgram, x: Tensor) -> list[Tensor]:
    """Run a model in ONNX Runtime on its only input."""
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    return [torch.from_numpy(output) for output in session.run(None, {session.get_inputs()[0].name: x.numpy()})]


def differences(program: torch.onnx.ONNXProgram, network: nn.Module, images: Tensor) -> dict[str, float]:
    """Run both, and give the worst relative error of a sample for each output."""
    outputs = run(program, images)
    with torch.no_grad():
        wanted = network(images)
    assert len(outputs) == len(wanted)
    pairs = zip(wanted.items(), outputs, strict=True)
    return {name: tolerances.relative_error(found, value) for (name, value), found in pairs}


def sizes_iterated(program: torch.onnx.ONNXProgram) -> Counter:
    """Count the products of square matrices, by their size."""
    products = [node for node in program.model.graph if node.op_type == "MatMul"]
    shapes = [tuple(tuple(factor.shape[-2:]) for factor in node.inputs) for node in products]
    return Counter(left[0] for left, right in shapes if left == right and left[0] == left[1])


def export(network: nn.Module, images: Tensor, *open_sizes: int) -> torch.onnx.ONNXProgram:
    shapes = (dict.fromkeys(open_sizes, torch.export.Dim.DYNAMIC),)
    program = torch.onnx.export(network, (images,), dynamo=True, verbose=False, dynamic_shapes=shapes)
    assert program is not None
    assert {node.domain for node in program.model.graph} == {""}, "there are only standard operators"
    assert not len(program.model.functions)
    return program


def test_every_layer_agrees_at_a_fixed_size_and_on_the_smaller_side(network, of_any_size):
    images = torch.randn(2, 3, 16, 16)
    program = export(network, images, 0)
    for batch in (images, torch.randn(5, 3, 16, 16)):
        errors = differences(program, network, batch)
        assert max(errors.values()) <= PROMISED, errors
    assert sizes_iterated(program)[16] > sizes_iterated(of_any_size)[16] == 0


def test_every_layer_agrees_where_batch_and_size_are_open(network, of_any_size):
    constant = torch.cat([torch.randn(1, 3, 24, 36), torch.zeros(1, 3, 24, 36)])
    for batch in (torch.randn(1, 3, 16, 16), torch.randn(3, 3, 40, 52), constant):
        errors = differences(of_any_size, network, batch)
        assert max(errors.values()) <= PROMISED, errors


def test_half_precision_is_computed_in_float32_and_rounded():
    layer, x = GCP(24, dim=None).eval(), torch.relu(torch.randn(2, 24, 7, 7)).half()
    program = export(layer, x)
    (found,) = run(program, x)
    assert found.dtype == torch.float16
    exact = gcp_kernels.reference.triu_vec(gcp_kernels.reference.isqrt_pool(x.double().flatten(2)))
    tolerances.assert_promise_kept(found, exact, "high", "isqrt_pool in ONNX")


def test_a_program_is_decomposed_first():
    layer, x = GCP(12, dim=None).eval(), torch.randn(2, 12, 5, 5)
    program = torch.export.export(layer, (x,))
    with pytest.raises(torch.onnx.errors.OnnxExporterError, match=r"No ONNX function .*gcp_kernels\.isqrt_pool"):
        torch.onnx.export(program, (x,), dynamo=True, verbose=False)
    decomposed = torch.onnx.export(gcp_kernels.export.decompose(program), (x,), dynamo=True, verbose=False)
    (found,) = run(decomposed, x)
    assert tolerances.relative_error(found, layer(x)) <= PROMISED


def test_autocast_does_not_reach_the_pooling():
    class Mixed(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            with torch.autocast("cpu", torch.bfloat16):
                return gcp_kernels.fused_gcp(x)

    x = torch.relu(torch.randn(2, 12, 5, 5))
    (found,) = run(export(Mixed(), x), x)
    assert tolerances.relative_error(found, Mixed()(x)) <= PROMISED


def test_the_reference_needs_no_decomposition():
    layer, x = GCP(12, dim=None, backend="reference").eval(), torch.randn(2, 12, 5, 5)
    (found,) = run(export(layer, x), x)
    assert tolerances.relative_error(found, layer(x)) <= PROMISED


@pytest.mark.parametrize("normalization", ["power", "log"])
def test_what_needs_eigenvalues_is_refused_by_name(normalization):
    layer = GCP(8, dim=None, normalization=normalization).eval()
    with pytest.raises(torch.onnx.errors.OnnxExporterError) as refusal:
        export(layer, torch.randn(1, 8, 4, 4))
    assert f"gcp_kernels.{normalization}_pool.default needs an eigen-decomposition" in str(refusal.value)
    assert "gcp_kernels.export.decompose" in str(refusal.value)
