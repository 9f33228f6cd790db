"""Networks and functions under torch.compile where sizes change: one graph, with the results and gradients of eager.

Compilations take seconds each, so that several layers share one. "automatic" is what torch.compile does by itself, a
graph for the first size and one for all others; "dynamic" leaves all sizes open at once.
"""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch
from torch import Tensor, nn

import gcp_kernels
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance

pytestmark = pytest.mark.slow
IMAGES = ((4, 3, 9, 9), (4, 3, 11, 13), (3, 3, 12, 10))


@pytest.fixture(autouse=True)
def fresh_compiler() -> Iterator[None]:
    """Forget graphs of other tests, and take the random numbers of eager, from which DropCov draws its masks."""
    torch._dynamo.reset()
    with torch._inductor.config.patch(fallback_random=True, compile_threads=1):
        yield
    torch._dynamo.reset()


class Maps(nn.Module):
    """Feature maps whose size follows from that of the image."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 6, 3)
        self.pools = nn.ModuleList([GCP(6, dim=4), DropCov(6, dim=3)])

    def forward(self, images: Tensor) -> Tensor:
        features = self.backbone(images)
        return torch.cat([pool(features) for pool in self.pools], dim=1)


class Tokens(nn.Module):
    """Tokens whose number follows from the size of the image, pooled with and without a reduction."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone = nn.Conv2d(3, 6, 3)
        self.pools = nn.ModuleList([GCP(6, dim=4, channel_dim=-1), MultiHeadCrossCovariance(6, 2, 3)])
        self.whole = GCP(6, dim=None, channel_dim=-1, normalization="none")

    def forward(self, images: Tensor) -> Tensor:
        tokens = self.backbone(images).flatten(2).mT
        return torch.cat([self.whole(tokens), *(pool(tokens) for pool in self.pools)], dim=1)


def step(network: Callable[[Tensor], Tensor], images: Tensor, *parameters: Tensor) -> list[Tensor]:
    """Compute output, and gradients of the images and the parameters, with the same channels dropped every time."""
    torch.manual_seed(1)
    images = images.detach().requires_grad_()
    pooled = network(images)
    return [pooled, *torch.autograd.grad(pooled.double().square().sum(), (images, *parameters))]


def assert_as_close(actual: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    """Compare relative to the largest of each tensor, or of all gradients for one that is zero but for rounding."""
    largest = max(gradient.abs().max() for gradient in expected[1:])
    for one, other in zip(actual, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=tolerance * float(max(other.abs().max(), largest / 100)))


# That inductor makes code for open sizes is seen below, of every function.
WAYS = [(Maps, None, "inductor"), (Tokens, True, "aot_eager")]


@pytest.mark.parametrize(("kind", "dynamic", "backend"), WAYS, ids=["automatic", "dynamic"])
def test_training_and_evaluation_with_changing_images(
    kind: type[nn.Module], dynamic: bool | None, backend: str
) -> None:
    network = kind()
    plain = copy.deepcopy(network)
    compiled = torch.compile(network, fullgraph=True, dynamic=dynamic, backend=backend)
    for shape in IMAGES:
        images = torch.randn(shape)
        assert_as_close(step(compiled, images, *network.parameters()), step(plain, images, *plain.parameters()), 1e-4)
    if dynamic:
        return
    network.eval()
    plain.eval()
    for shape in IMAGES:
        images = torch.randn(shape)
        with torch.no_grad():
            torch.testing.assert_close(compiled(images), plain(images), rtol=1e-4, atol=1e-5)


def functions(x: Tensor, tokens: Tensor, scale: Tensor, gate: Tensor) -> Tensor:
    """Call every public function, with features (B, 4, *spatial), tokens (B, N, 4) and a scale (B, 4)."""
    cov = gcp_kernels.covariance_pool(x, scale=scale)
    root = gcp_kernels.newton_schulz_sqrt(cov)
    matrices = [
        root,
        gcp_kernels.newton_schulz_inverse_sqrt(cov),
        gcp_kernels.matrix_power(cov),
        gcp_kernels.matrix_log(cov),
        gcp_kernels.fused_gcp(tokens, channel_dim=-1, output="full"),
        gcp_kernels.singular_value_power(gcp_kernels.cross_covariance_pool(tokens, tokens.tanh()), scale),
        gcp_kernels.triu_unvec(gcp_kernels.triu_vec(cov)),
    ]
    vectors = [
        gcp_kernels.elementwise_power(gcp_kernels.triu_vec(root)),
        gcp_kernels.fused_gcp(x),
        gcp_kernels.dropcov(x, gate, training=True),
    ]
    return torch.cat([*(matrix.flatten(1) for matrix in matrices), *vectors], dim=1)


def test_every_function_with_changing_batch_and_positions() -> None:
    compiled = torch.compile(functions, fullgraph=True, dynamic=True)
    for batch, height, width in ((3, 5, 5), (2, 6, 9), (4, 8, 3)):
        features = torch.randn(batch, 4, height, width)
        rest = [tensor.requires_grad_() for tensor in (torch.rand(batch, 4) + 0.5, torch.randn(1, 1, 3))]

        def of(function: Callable[..., Tensor], rest: list[Tensor] = rest) -> Callable[[Tensor], Tensor]:
            return lambda x: function(x.sin(), x.flatten(2).mT, *rest)

        assert_as_close(step(of(compiled), features, *rest), step(of(functions), features, *rest), 1e-4)


def test_one_graph_serves_both_sides() -> None:
    """The iterates that are kept have the size of the smaller side, of the positions or of the channels.

    Not from torch's cache of graphs on disk: it adds guards of the backward pass, which tell the sides apart, to those
    of the forward pass, so that a second process compiles one more graph.
    """
    compiled = torch.compile(gcp_kernels.fused_gcp, fullgraph=True, dynamic=True)
    for batch, positions in ((3, 7), (2, 40), (4, 25)):
        features = torch.randn(batch, 30, positions)
        recompiling = torch._dynamo.config.patch(error_on_recompile=batch != 3)
        with recompiling, torch._inductor.config.patch(force_disable_caches=True):
            ours = step(compiled, features)
        assert_as_close(ours, step(gcp_kernels.fused_gcp, features), 1e-4)


@pytest.mark.parametrize("kind", [Maps, Tokens])
def test_export_with_open_sizes(kind: type[nn.Module]) -> None:
    network = kind().eval()
    height, width = (torch.export.Dim(name, min=6, max=64) for name in ("height", "width"))
    shapes = ({0: torch.export.Dim("batch", max=64), 2: height, 3: width},)
    program = torch.export.export(network, (torch.randn(IMAGES[1]),), dynamic_shapes=shapes).module()
    for shape in IMAGES:
        images = torch.randn(shape)
        torch.testing.assert_close(program(images), network(images))
