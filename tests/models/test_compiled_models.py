"""torch.compile of whole converted models: one graph, in training and in evaluation, with the same results."""

import copy

import pytest
import torch
from torch import nn

from gcp_kernels.integrations import replace_pool
from tests.support.small_models import CASES, Case

pytestmark = pytest.mark.versions


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch._dynamo.reset()


def convert(case: Case, pool: str = "gcp") -> nn.Module:
    return replace_pool(case.build(), num_classes=3, dim=4, pool=pool, keep_stride=not case.stages)


def seeded(model: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """Give the model's output, with the same samples and channels dropped every time."""
    torch.manual_seed(1)
    return model(x)


def compare(case: Case, backend: str, pool: str = "gcp") -> None:
    """Compare logits and gradients of a compiled training step, then logits in evaluation; no graph may break."""
    model = convert(case, pool)
    plain = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend=backend)
    x = torch.randn(2, 3, case.image, case.image)
    actual, expected = seeded(compiled, x), seeded(plain, x)
    torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-4)
    actual.sum().backward()
    expected.sum().backward()
    gradients = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        scale = parameter.grad.abs().max().clamp(min=1e-3)
        assert (gradients[name].grad - parameter.grad).abs().max() <= 1e-3 * scale, name
    model.eval()
    plain.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), plain(x), rtol=1e-4, atol=1e-4)


# One of each class and subclass. "eager" runs the graph as it was traced, which is where a break would show, and takes
# the backward pass from autograd; "aot_eager" traces that too.
BACKENDS = {
    "torchvision-resnet": "eager",
    "torchvision-mobilenet_v2": "eager",
    "torchvision-shufflenet_v2": "eager",
    "torchvision-vit": "aot_eager",
    "torchvision-swin": "eager",
    "timm-resnet": "eager",
    "timm-mobilenet_v2": "eager",
    "timm-vit": "eager",
    "timm-deit_distilled": "eager",
    "timm-swin": "aot_eager",
}


@pytest.mark.sampled(4)
@pytest.mark.parametrize(("name", "backend"), BACKENDS.items())
def test_a_converted_model_is_one_graph(name: str, backend: str) -> None:
    compare(CASES[name], backend)


def test_a_model_with_dropcov_is_one_graph() -> None:
    compare(CASES["torchvision-vit"], "eager", "dropcov")


def test_a_converted_model_compiles_to_machine_code() -> None:
    model, x = convert(CASES["torchvision-vit"]).eval(), torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(torch.compile(model, fullgraph=True)(x), model(x), rtol=1e-4, atol=1e-4)
