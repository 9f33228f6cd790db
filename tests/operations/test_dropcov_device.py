"""DropCov where it runs: the host reads nothing, CUDA graphs, torch.compile, torch.func, autocast."""

from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
import torch.utils.checkpoint
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

from benchmarks.speed.dropcov import POOLS
from gcp_kernels import dropcov
from gcp_kernels.nn import DropCov
from gcp_kernels.ops.covariance_pool import torch as plain
from tests.support import tolerances
from tests.support.dropcov_inputs import features, gate_weight, of_reference, ours, probability, random_mask

ATEN = torch.ops.aten


class HostReads(Exception):
    pass


class NoHostReads(TorchDispatchMode):
    """Raises where the host would wait for a device: it takes a number, or a size that depends on one, or copies."""

    READING = (
        ATEN._local_scalar_dense,
        ATEN.item,
        ATEN.is_nonzero,
        ATEN.equal,
        ATEN.nonzero,
        ATEN.masked_select,
        ATEN.lift_fresh,  # a tensor made of numbers of the host
    )

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func.overloadpacket in self.READING:
            raise HostReads(str(func))
        devices = {value.device for value in (*args, *kwargs.values()) if isinstance(value, Tensor) and value.dim() > 0}
        if len(devices | ({kwargs["device"]} if kwargs.get("device") and devices else set())) > 1:
            raise HostReads(f"{func} copies between {devices}")
        return func(*args, **kwargs)


def train(pool: Callable[[Tensor, Tensor], Tensor], device: str) -> None:
    x = torch.randn(4, 8, 3, 3, device=device, requires_grad=True)
    weight = torch.randn(1, 1, 3, device=device, requires_grad=True)
    out = pool(x, weight)
    torch.autograd.grad(out, (x, weight), torch.empty_like(out))


def drop(x: Tensor, weight: Tensor) -> Tensor:
    return dropcov(x, weight, training=True)


def written_out(x: Tensor, weight: Tensor) -> Tensor:
    return POOLS["written out"](x, weight, None)


@pytest.mark.parametrize("where", ["cpu", "meta"])
def test_no_operation_reads_on_the_host(where: str) -> None:
    with NoHostReads():
        train(drop, where)
        train(lambda x, weight: drop(x.half(), weight), where)
    with pytest.raises((HostReads, RuntimeError)), NoHostReads():
        train(written_out, where)


def test_no_operation_of_the_backend_reads_on_the_host() -> None:
    """Inside the operators, where a mode around their callers does not look."""
    x, scale, grad = torch.randn(4, 8, 9), torch.randn(4, 8), torch.randn(4, 36)
    for mode in (NoHostReads(), FakeTensorMode(allow_non_fake_inputs=True)):
        with mode:
            _, centre = plain.covariance_pool(x, scale, True, "default")
            plain.covariance_pool_backward(grad, x, scale, centre, True, "default")


def test_no_value_is_needed_to_go_on() -> None:
    """Tensors without values, for which reading one raises."""
    with FakeTensorMode():
        train(drop, "cpu")
        with pytest.raises(DataDependentOutputException):
            train(written_out, "cpu")


@pytest.mark.gpu
def test_host_never_waits_for_the_device() -> None:
    layer = DropCov(64, dim=32).cuda()
    x = torch.randn(8, 64, 7, 7, device="cuda", requires_grad=True)
    layer(x).sum().backward()
    torch.cuda.set_sync_debug_mode("error")
    try:
        layer(x).sum().backward()
        with pytest.raises(RuntimeError, match="synchroniz"):
            train(written_out, "cuda")
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
def test_cuda_graph_draws_a_new_mask_at_each_replay() -> None:
    """Captured once with a registered generator, replayed on new features: the mask and p follow, and the gradients."""
    generator = torch.Generator("cuda").manual_seed(5)
    x = features(8, 64, 49, 0.8, torch.float32).cuda().requires_grad_()
    weight = gate_weight(dtype=torch.float32).cuda().requires_grad_()
    grad = torch.randn(8, 64 * 65 // 2, device="cuda")

    def run() -> tuple[Tensor, ...]:
        out = dropcov(x, weight, training=True, generator=generator)
        return out, *torch.autograd.grad(out, (x, weight), grad)

    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            run()
    torch.cuda.current_stream().wait_stream(stream)

    graph = torch.cuda.CUDAGraph()
    graph.register_generator_state(generator)
    with torch.cuda.graph(graph):
        captured = run()

    generator.manual_seed(7)
    masks = []
    for _ in range(2):
        with torch.no_grad():
            x.copy_(features(8, 64, 49, 0.8, torch.float32))
        graph.replay()
        replayed = [tensor.clone() for tensor in captured]
        diagonal = [i * 64 - i * (i - 1) // 2 for i in range(64)]
        mask = replayed[0][:, diagonal] != 0
        masks.append(mask)
        out = ours(x, weight, mask)
        expected = out, *torch.autograd.grad(out, (x, weight), grad)
        assert all(map(torch.equal, replayed, expected))
    assert not torch.equal(*masks)


@pytest.mark.gpu
def test_generator_of_another_device_is_refused() -> None:
    x, weight = torch.randn(2, 4, 9, device="cuda"), torch.zeros(1, 1, 3, device="cuda")
    with pytest.raises(ValueError, match=r"generator.*cuda:0.*cpu"):
        dropcov(x, weight, training=True, generator=torch.Generator())


@pytest.mark.gpu
def test_mask_of_a_seed_is_the_same_in_eager_mode_and_with_a_generator_of_that_seed() -> None:
    x, weight = features(8, 64, 49, 0.8, torch.float32).cuda(), torch.zeros(1, 1, 3, device="cuda")
    torch.manual_seed(3)
    seeded = dropcov(x, weight, training=True)
    generator = torch.Generator("cuda").manual_seed(3)
    assert torch.equal(dropcov(x, weight, training=True, generator=generator), seeded)


@pytest.fixture
def fresh_compiler() -> Iterator[None]:
    torch.compiler.reset()
    yield
    torch.compiler.reset()


@pytest.mark.usefixtures("fresh_compiler")
@pytest.mark.parametrize("dynamic", [None, True])
def test_compiles_without_a_graph_break(dynamic: bool | None, device: str) -> None:
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager", dynamic=dynamic)
    for b, m in ((3, 20), (5, 9)) if dynamic else ((3, 20),):
        given = [t.to(device) for t in (features(b, 64, m, 0.8), gate_weight(), random_mask(b, 64))]
        leaves = [tensor.requires_grad_() for tensor in given[:2]]
        value, expected = compiled(*given), ours(*given)
        grad = torch.randn_like(expected)
        tolerances.assert_same_float64(value, expected, "value")
        for actual, exact in zip(*(torch.autograd.grad(v, leaves, grad) for v in (value, expected)), strict=True):
            tolerances.assert_same_float64(actual, exact, "gradient")


@pytest.mark.usefixtures("fresh_compiler")
def test_compiled_layer_draws_masks_and_follows_its_mode(device: str) -> None:
    layer = DropCov(64, dim=None).to(device, torch.float64)
    compiled = torch.compile(layer, fullgraph=True, backend="aot_eager")
    x = features(3, 64, 20, 0.8).to(device)
    assert not torch.equal(compiled(x), compiled(x))
    layer.eval()
    tolerances.assert_same_float64(compiled(x), layer(x), "evaluation")


def test_exported_in_evaluation(device: str) -> None:
    layer = DropCov(5, dim=3).to(device, torch.float64).eval()
    x = torch.randn(3, 5, 4, 4, dtype=torch.float64, device=device)
    program = torch.export.export(layer, (x,))
    tolerances.assert_same_float64(program.module()(x), layer(x), "exported")


def test_func_grad_is_that_of_the_reference(device: str) -> None:
    given = [t.to(device) for t in (features(3, 64, 9, 0.8), gate_weight(), random_mask(3, 64))]

    def loss_of(pool: Callable[..., Tensor]) -> Callable[..., Tensor]:
        return lambda *given: (pool(*given) ** 3).sum()

    found, exact = (torch.func.grad(loss_of(pool), argnums=(0, 1))(*given) for pool in (ours, of_reference))
    for actual, expected in zip(found, exact, strict=True):
        tolerances.assert_same_float64(actual, expected, "gradient")


@pytest.mark.parametrize("in_dims", [(0, 0, 0), (0, None, 0), (None, 0, None)])
def test_vmap_is_a_loop_over_batches(in_dims: tuple[int | None, ...], device: str) -> None:
    """Each mapped batch has its own p; also an ensemble of gates on the same features."""
    stacked = [
        torch.stack([make().to(device) for _ in range(2)])
        for make in (lambda: features(3, 64, 9, 0.8), gate_weight, lambda: random_mask(3, 64))
    ]
    given = [tensor[0] if dim is None else tensor for tensor, dim in zip(stacked, in_dims, strict=True)]
    rows = [[t if dim is None else t[i] for t, dim in zip(given, in_dims, strict=True)] for i in range(2)]
    mapped = torch.func.vmap(ours, in_dims=in_dims)(*given)
    tolerances.assert_same_float64(mapped, torch.stack([of_reference(*row) for row in rows]), "mapped")
    if in_dims[0] == 0:
        drawn = torch.func.vmap(drop, in_dims=in_dims[:2], randomness="different")(*given[:2])
        assert drawn.shape == mapped.shape


def test_recomputed_under_checkpointing_with_the_same_mask(device: str) -> None:
    x, weight = (t.to(device).requires_grad_() for t in (features(4, 64, 20, 0.8), gate_weight()))
    results = []
    for checkpointed in (False, True):
        torch.manual_seed(4)
        out = (
            torch.utils.checkpoint.checkpoint(drop, x, weight, use_reentrant=False) if checkpointed else drop(x, weight)
        )
        results.append((out, *torch.autograd.grad(out, (x, weight), torch.ones_like(out))))
    assert all(map(torch.equal, *results))


@pytest.mark.parametrize("autocast_dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_autocast_changes_nothing(dtype: torch.dtype, autocast_dtype: torch.dtype, device: str) -> None:
    x, weight = features(4, 64, 20, 0.8, dtype).to(device).requires_grad_(), gate_weight(dtype=torch.float32).to(device)
    weight.requires_grad_()
    mask, results = random_mask(4, 64).to(device), []
    for enabled in (False, True):
        with torch.autocast(device, dtype=autocast_dtype, enabled=enabled):
            out = ours(x, weight, mask)
            p = probability(x, weight)
        results.append((out, p, *torch.autograd.grad(out, (x, weight), torch.ones_like(out))))
    assert 0 < results[0][1] < 1
    assert all(map(torch.equal, *results))


def test_one_covariance_and_no_other_product_of_matrices(device: str) -> None:
    """What the speed rests on, counted; the published code takes two covariances."""
    counts: Counter[str] = Counter()
    sizes: list[int] = []

    class Operations(TorchDispatchMode):
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            counts[func.overloadpacket.__name__] += 1
            result = func(*args, **(kwargs or {}))
            sizes.extend(tensor.numel() for tensor in (result if isinstance(result, tuple) else (result,)))
            return result

    x = torch.randn(2, 64, 4, device=device, requires_grad=True)
    weight = torch.randn(1, 1, 3, device=device, requires_grad=True)
    with Operations():
        out = drop(x, weight)
        torch.autograd.grad(out, (x, weight), torch.empty_like(out))
    assert counts["covariance_pool"] == counts["covariance_pool_backward"] == 1
    assert not counts.keys() & {"mm", "bmm", "addmm", "baddbmm", "mv", "dot", "convolution", "conv1d"}
    assert max(sizes) == out.numel(), "no matrix of C x C, only its triangle"
