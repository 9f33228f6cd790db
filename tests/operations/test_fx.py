"""torch.fx: layers and functions are nodes of any trace by themselves, and what is traced computes the same."""

import copy
import pickle
from collections.abc import Callable

import pytest
import torch
from torch import Tensor, fx, nn
from torch.overrides import TorchFunctionMode

import gcp_kernels
from gcp_kernels import functional
from gcp_kernels.integrations import replace_pool
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance, TokenFusionHead
from gcp_kernels.nn.normalization import NORMALIZATIONS
from tests.support.public_functions import CASES
from tests.support.small_models import CASES as MODELS

MAPS, TOKENS = (2, 4, 3, 3), (2, 6, 4)
LAYERS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    **{f"GCP_{name}": (lambda name=name: GCP(4, dim=3, normalization=name), MAPS) for name in NORMALIZATIONS},
    "GCP_without_reduction": (lambda: GCP(4, dim=None), MAPS),
    "GCP_tokens": (lambda: GCP(4, dim=3, channel_dim=-1), TOKENS),
    "DropCov": (lambda: DropCov(4, dim=3), MAPS),
    "MultiHeadCrossCovariance": (lambda: MultiHeadCrossCovariance(4, 2, 2), TOKENS),
    "MultiHeadCrossCovariance_none": (lambda: MultiHeadCrossCovariance(4, 2, 2, "none"), TOKENS),
    "TokenFusionHead_sum": (lambda: TokenFusionHead(4, MultiHeadCrossCovariance(4, 2, 2), 3), TOKENS),
    "TokenFusionHead_concat": (lambda: TokenFusionHead(4, GCP(4, None, channel_dim=-1), 3, "concat"), TOKENS),
}


@pytest.fixture(autouse=True)
def fresh_compiler() -> None:
    torch.compiler.reset()


def operations(graph: fx.Graph) -> list[str]:
    return [node.op for node in graph.nodes if node.op not in ("placeholder", "output")]


def seeded(module: Callable[..., Tensor], *given: Tensor) -> Tensor:
    torch.manual_seed(1)
    return module(*given)


def assert_graph_modules_hold(traced: fx.GraphModule, module: Callable[..., Tensor], *given: Tensor) -> None:
    """Check that the trace is what was traced: as it is, copied, pickled, compiled in one graph and exported."""
    expected = seeded(module, *given)
    for same in (traced, copy.deepcopy(traced), pickle.loads(pickle.dumps(traced))):
        assert torch.equal(seeded(same, *given), expected)
    for compiled in (
        torch.compile(traced, fullgraph=True, backend="eager"),
        torch.export.export(traced, given).module(),
    ):
        torch.testing.assert_close(seeded(compiled, *given), expected)


@pytest.mark.parametrize("name", CASES)
def test_functions_are_nodes(name: str) -> None:
    case, given = CASES[name], CASES[name].given()
    traced = {1: lambda x: case.function(x), 2: lambda x, y: case.function(x, y)}[len(given)]
    module = fx.symbolic_trace(traced)
    public = getattr(functional, name.removesuffix("_full").removesuffix("_scaled"))
    assert [node.target for node in module.graph.nodes if node.op == "call_function"] == [public]
    assert_graph_modules_hold(module, case.function, *given)


def test_only_one_argument_need_be_traced() -> None:
    x, scale = CASES["covariance_pool_scaled"].given()
    traced = fx.symbolic_trace(lambda scale: gcp_kernels.covariance_pool(x, scale=scale))
    assert torch.equal(traced(scale), gcp_kernels.covariance_pool(x, scale=scale))


@pytest.mark.parametrize("name", LAYERS)
def test_layers_are_nodes(name: str) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make()).eval(), torch.randn(shape)
    traced = fx.symbolic_trace(model)
    assert operations(traced.graph) == ["call_module"]
    assert_graph_modules_hold(traced, model, x)


@pytest.mark.parametrize("name", LAYERS)
def test_a_traced_layer_trains_and_follows_train_and_eval(name: str) -> None:
    make, shape = LAYERS[name]
    model, x = nn.Sequential(make()).eval(), torch.randn(shape, requires_grad=True)
    traced = fx.symbolic_trace(model).train()
    leaves = [x, *model.parameters()]
    results = [seeded(module, x) for module in (traced, model)]
    assert torch.equal(*results)
    for ours, expected in zip(*(torch.autograd.grad(result.sum(), leaves) for result in results), strict=True):
        assert torch.equal(ours, expected)


@pytest.mark.parametrize("name", LAYERS)
def test_a_trace_of_the_layer_itself_goes_through_it(name: str) -> None:
    make, shape = LAYERS[name]
    layer, x = make().eval(), torch.randn(shape)
    traced = fx.symbolic_trace(layer)
    assert_graph_modules_hold(traced, layer, x)
    with pytest.raises(ValueError, match="must have"):  # the layer's own checks are among the nodes
        traced(torch.randn(2, 9, 9, 3) if shape == MAPS else torch.randn(2, 6, 5))


class Doubled(GCP):
    """A layer of a user's, whose forward changes what the layer is given and what it gives."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(2 * x) + 1


class Shared(nn.Module):
    """A layer that is called twice, once by keyword, and one that is not ours to know."""

    def __init__(self) -> None:
        super().__init__()
        self.pool = GCP(4, dim=3)
        self.doubled = Doubled(4, dim=3)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(x) + self.pool(x=x.relu()) + self.doubled(x)


def test_subclasses_keywords_and_layers_called_twice() -> None:
    model, x = Shared().eval(), torch.randn(MAPS)
    traced = fx.symbolic_trace(model)
    called = [node.target for node in traced.graph.nodes if node.op == "call_module"]
    assert called == ["pool", "pool", "doubled"]
    assert torch.equal(traced(x), model(x))


def test_hooks_run_when_the_graph_does() -> None:
    model, x, seen = nn.Sequential(GCP(4, dim=None)), torch.randn(MAPS), []
    model[0].register_forward_pre_hook(lambda module, given: (given[0] + given[0].square(),))
    model[0].register_forward_hook(lambda module, given, result: seen.append(type(result)) or 2 * result)
    traced = fx.symbolic_trace(model)
    assert not seen
    assert torch.equal(traced(x), model(x))
    assert seen == [Tensor, Tensor]


@pytest.mark.filterwarnings("ignore:NOTE. The nodes")  # torchvision's own, where training only adds nodes
@pytest.mark.parametrize("pool", ["gcp", "dropcov"])
@pytest.mark.parametrize("name", MODELS)
def test_features_of_converted_models(name: str, pool: str) -> None:
    extraction = pytest.importorskip("torchvision.models.feature_extraction")
    case = MODELS[name]
    model = replace_pool(case.build(), num_classes=3, dim=4, pool=pool).eval()
    x = torch.randn(2, 3, case.image, case.image)
    pooled: list[Tensor] = []
    model.get_submodule(case.pool).register_forward_hook(lambda module, given, result: pooled.append(result))
    extractor = extraction.create_feature_extractor(model, return_nodes=[case.pool])
    features = extractor(x)[case.pool]
    torch.testing.assert_close(fx.symbolic_trace(model)(x), model(x))
    for expected in pooled:
        torch.testing.assert_close(features, expected)
    assert pooled


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")  # torch's own, of its quantization
@pytest.mark.parametrize("name", ["torchvision-resnet", "torchvision-mobilenet_v2", "timm-resnet"])
def test_quantization_of_converted_models(name: str) -> None:
    """The pool stays float between quantized layers."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    case = MODELS[name]
    model = replace_pool(case.build(), num_classes=3, dim=4).eval()
    x = torch.randn(2, 3, case.image, case.image)
    prepared = prepare_fx(copy.deepcopy(model), get_default_qconfig_mapping(), (x,))
    torch.testing.assert_close(prepared(x), model(x))
    quantized = convert_fx(prepared)
    assert isinstance(quantized.get_submodule(case.pool), GCP)
    assert quantized(x).shape == (2, 3)


class Calls(TorchFunctionMode):
    """Notes which functions it is asked about."""

    def __init__(self) -> None:
        super().__init__()
        self.functions: list[object] = []

    def __torch_function__(
        self, function: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        self.functions.append(function)
        return function(*args, **kwargs or {})


class Named(Tensor):
    """A tensor subclass that changes nothing."""


class NoTensor:
    """What answers for itself, wherever it stands among the arguments."""

    @classmethod
    def __torch_function__(
        cls, function: Callable[..., object], types: object, args: tuple = (), kwargs: dict | None = None
    ) -> object:
        return function


@pytest.mark.parametrize("name", CASES)
def test_classes_and_modes_that_override_functions(name: str) -> None:
    function, given = CASES[name].function, CASES[name].given()
    public = getattr(functional, name.removesuffix("_full").removesuffix("_scaled"))
    with Calls() as mode:
        value = function(*given)
    assert mode.functions == [public]
    assert torch.equal(value, function(*given))
    named = function(*(tensor.as_subclass(Named) for tensor in given))
    assert type(named) is Named
    assert torch.equal(named.as_subclass(Tensor), value)
    for i in range(len(given)):
        assert function(*given[:i], NoTensor(), *given[i + 1 :]) is public


def test_an_exported_function_keeps_what_is_inside() -> None:
    """The mode by which torch.export records a block without autocast sees it: products stay float32."""

    class Pool(nn.Module):
        def forward(self, q: Tensor, k: Tensor) -> Tensor:
            return gcp_kernels.cross_covariance_pool(q, k)

    given = tuple(tensor.float() for tensor in CASES["cross_covariance_pool"].given())
    exported = torch.export.export(Pool(), given, strict=False).module()
    with torch.autocast("cpu"):
        assert torch.equal(exported(*given), gcp_kernels.cross_covariance_pool(*given))
