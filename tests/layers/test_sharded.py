"""Two processes with DTensors, fully_shard, ZeRO and distributed checkpoints: the values of one process with all of it.

All checks run in one pair of processes, which takes most of the time; each is a test of its own here.
"""

import traceback
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

import gcp_kernels
from gcp_kernels.nn import GCP, DropCov, MultiHeadCrossCovariance
from tests.support.process_group import PROCESSES, run_group

pytestmark = [
    pytest.mark.versions,
    pytest.mark.skipif(not torch.distributed.is_available(), reason="torch was built without torch.distributed"),
]

B, C = 4, 6
GATE = torch.linspace(-1, 1, 3, dtype=torch.float64).view(1, 1, 3)
MASK = torch.ones(B, C, dtype=torch.bool).index_fill(1, torch.tensor(2), False)


def features() -> Tensor:
    return torch.relu(torch.randn(B, C, 5, 5, generator=torch.Generator().manual_seed(0), dtype=torch.float64))


def covariances() -> Tensor:
    x = features().flatten(2)
    return x @ x.mT


def like(plain: Tensor, x: Tensor) -> Tensor:
    """Place a tensor that every process has as the DTensor ``x`` needs it, replicated."""
    from torch.distributed.tensor import DTensor, Replicate, distribute_tensor

    return distribute_tensor(plain, x.device_mesh, [Replicate()]) if isinstance(x, DTensor) else plain


# What is called, and what makes its argument.
CALLS: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[], Tensor]]] = {
    "fused_gcp": (gcp_kernels.fused_gcp, features),
    "fused_gcp of tokens": (lambda x: gcp_kernels.fused_gcp(x.flatten(2).mT, channel_dim=-1, output="full"), features),
    "covariance_pool": (gcp_kernels.covariance_pool, features),
    "triangle of a covariance": (lambda x: gcp_kernels.covariance_pool(x, output="triu"), features),
    "dropcov in evaluation": (lambda x: gcp_kernels.dropcov(x, like(GATE, x), training=False), features),
    "dropcov in training": (
        lambda x: gcp_kernels.dropcov(x, like(GATE, x), training=True, mask=like(MASK, x)),
        features,
    ),
    "cross_covariance_pool": (lambda x: gcp_kernels.cross_covariance_pool(x.flatten(2).mT, x.flatten(2).mT), features),
    "singular_value_power": (
        lambda m: gcp_kernels.singular_value_power(m, like(torch.ones(C, dtype=torch.float64), m)),
        covariances,
    ),
    "newton_schulz_sqrt": (gcp_kernels.newton_schulz_sqrt, covariances),
    "newton_schulz_inverse_sqrt": (gcp_kernels.newton_schulz_inverse_sqrt, covariances),
    "matrix_power": (gcp_kernels.matrix_power, covariances),
    "matrix_log": (gcp_kernels.matrix_log, covariances),
    "triu_vec": (gcp_kernels.triu_vec, covariances),
    "triu_unvec": (lambda m: gcp_kernels.triu_unvec(gcp_kernels.triu_vec(m)), covariances),
    "elementwise_power": (gcp_kernels.elementwise_power, covariances),
    **{f"GCP, {name}": (GCP(C, dim=None, normalization=name), features) for name in ("power", "log", "elementwise")},
    "DropCov": (DropCov(C, dim=None).eval(), features),
}


def close(actual: Tensor, expected: Tensor) -> None:
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-11)


def check_call(name: str, mesh: object) -> None:
    """Compare a call and its gradient, sharded on the batch and replicated."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    function, make = CALLS[name]
    x = make().requires_grad_()
    expected = function(x)
    upstream = torch.randn(expected.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    (gradient,) = torch.autograd.grad(expected, x, upstream)
    for placement in (Shard(0), Replicate()):
        sharded = distribute_tensor(make(), mesh, [placement]).requires_grad_()
        pooled = function(sharded)
        assert pooled.placements == (placement,)
        (found,) = torch.autograd.grad(pooled, sharded, distribute_tensor(upstream, mesh, [placement]))
        close(pooled.full_tensor(), expected)
        assert found.placements == (placement,)
        close(found.full_tensor(), gradient)


def check_refusals(mesh: object, folder: Path) -> None:
    """See that what is divided within a sample, or not summed up yet, is not gathered without a word."""
    from torch.distributed.tensor import DTensor, Partial, Shard, distribute_tensor

    on_channels = distribute_tensor(features(), mesh, [Shard(1)])
    summed = DTensor.from_local(covariances(), mesh, [Partial()])
    on_batch = distribute_tensor(features(), mesh, [Shard(0)]).requires_grad_()
    (gradient,) = torch.autograd.grad(gcp_kernels.fused_gcp(on_batch).square().sum(), on_batch, create_graph=True)
    for call, message in (
        (lambda: gradient.square().sum().backward(), "second derivatives of operators of gcp_kernels are for plain"),
        (lambda: gcp_kernels.fused_gcp(on_channels), "gcp_kernels::isqrt_pool takes DTensors .* x is placed as S"),
        (lambda: gcp_kernels.newton_schulz_sqrt(summed), "newton_schulz_sqrt takes DTensors .* cov is placed as P"),
    ):
        with pytest.raises(RuntimeError, match=message):
            call()


def check_parallel_classifier(mesh: object, folder: Path) -> None:
    """Divide the classifier and not the features: its gradients come in parts, or as sums to be made."""
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    generator = torch.Generator().manual_seed(3)
    weight = torch.randn(8, C * (C + 1) // 2, generator=generator, dtype=torch.float64)
    plain = features().requires_grad_()
    nn.functional.linear(gcp_kernels.fused_gcp(plain), weight).square().sum().backward()
    for placement in (Shard(0), Shard(1)):
        x = distribute_tensor(features(), mesh, [Replicate()]).requires_grad_()
        divided = distribute_tensor(weight, mesh, [placement])
        nn.functional.linear(gcp_kernels.fused_gcp(x), divided).square().sum().backward()
        close(x.grad.full_tensor(), plain.grad)


def check_compiled(mesh: object, folder: Path) -> None:
    """Compile a call on a DTensor."""
    from torch.distributed.tensor import Shard, distribute_tensor

    x = distribute_tensor(features(), mesh, [Shard(0)])
    pooled = torch.compile(lambda x: 2 * gcp_kernels.fused_gcp(x), backend="aot_eager", fullgraph=True)(x)
    assert pooled.placements == (Shard(0),)
    close(pooled.full_tensor(), 2 * gcp_kernels.fused_gcp(features()))


def network() -> nn.Module:
    torch.manual_seed(0)
    pool = GCP(8, dim=C)
    return nn.Sequential(nn.Conv2d(2, 8, 3), nn.ReLU(), pool, nn.Linear(pool.out_features, 3)).double().eval()


def images_and_labels() -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    return torch.randn(B, 2, 9, 9, generator=generator, dtype=torch.float64), torch.tensor([0, 1, 2, 1])


def step(model: nn.Module, optimizer: torch.optim.Optimizer, part: slice = slice(None)) -> None:
    images, labels = images_and_labels()
    nn.functional.cross_entropy(model(images[part]), labels[part]).backward()
    optimizer.step()


def trained() -> dict[str, Tensor]:
    """Train one process for a step with the whole batch."""
    model = network()
    step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9))
    return model.state_dict()


def mine() -> slice:
    rank, share = torch.distributed.get_rank(), B // PROCESSES
    return slice(rank * share, (rank + 1) * share)


def check_fully_sharded(mesh: object, folder: Path) -> None:
    """Shard modules and the whole, train a step, and save what a single process loads in the test."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict
    from torch.distributed.fsdp import fully_shard

    model = network()
    for module in (model[2], model[3], model):
        fully_shard(module, mesh=mesh)
    step(model, torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9), mine())
    expected = trained()
    for name, parameter in model.named_parameters():
        close(parameter.full_tensor(), expected[name])
    checkpoint.save(get_model_state_dict(model), checkpoint_id=folder / "checkpoint")


def check_zero(mesh: object, folder: Path) -> None:
    """Train a step with the optimizer's state divided."""
    from torch.distributed.optim import ZeroRedundancyOptimizer

    model = nn.parallel.DistributedDataParallel(network())
    optimizer = ZeroRedundancyOptimizer(model.parameters(), torch.optim.SGD, lr=0.1, momentum=0.9)
    step(model, optimizer, mine())
    expected = trained()
    for name, parameter in model.module.named_parameters():
        close(parameter, expected[name])


def check_checkpoints_of_other_layers(mesh: object, folder: Path) -> None:
    """Save and load DropCov and heads, sharded."""
    from torch.distributed import checkpoint
    from torch.distributed.checkpoint.state_dict import get_model_state_dict, set_model_state_dict
    from torch.distributed.fsdp import fully_shard

    def layers(seed: int) -> nn.Module:
        torch.manual_seed(seed)
        return fully_shard(nn.Sequential(DropCov(8, dim=C), MultiHeadCrossCovariance(8, 2, 4)), mesh=mesh)

    saved, loaded = layers(0), layers(1)
    checkpoint.save(get_model_state_dict(saved), checkpoint_id=folder / "layers")
    state = get_model_state_dict(loaded)
    checkpoint.load(state, checkpoint_id=folder / "layers")
    set_model_state_dict(loaded, state)
    for ours, theirs in zip(saved.parameters(), loaded.parameters(), strict=True):
        assert torch.equal(ours.full_tensor(), theirs.full_tensor())


CHECKS = (*CALLS, "refusals", "parallel_classifier", "compiled", "fully_sharded", "zero", "checkpoints_of_other_layers")


def work(rank: int, folder: Path) -> None:
    """Do every check, and write what it raised into ``folder``."""
    mesh = torch.distributed.init_device_mesh("cpu", (PROCESSES,))
    raised = {}
    for name in CHECKS:
        try:
            if name in CALLS:
                check_call(name, mesh)
            else:
                globals()[f"check_{name}"](mesh, folder)
        except Exception:
            raised[name] = traceback.format_exc()
    torch.save(raised, folder / f"{rank}.pt")


@pytest.fixture(scope="module")
def outcome(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run all checks in two processes, and give the folder that they wrote to."""
    folder = tmp_path_factory.mktemp("sharded")
    run_group(work, folder)
    return folder


@pytest.mark.parametrize("name", CHECKS)
def test_two_processes_give_what_one_gives(name: str, outcome: Path) -> None:
    for rank in range(PROCESSES):
        raised = torch.load(outcome / f"{rank}.pt")
        assert name not in raised, raised.get(name)


def test_a_checkpoint_of_two_processes_loads_in_one(outcome: Path) -> None:
    from torch.distributed import checkpoint

    model = network()
    state = model.state_dict()
    checkpoint.load(state, checkpoint_id=outcome / "checkpoint", no_dist=True)
    for name, tensor in trained().items():
        close(state[name], tensor)
