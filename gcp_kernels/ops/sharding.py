"""The operators on DTensors: samples are independent, so a batch may be sharded, or every process has all of it.

A sample cannot be divided. DTensor would gather it for an operator without a word; here other placements are refused.
A batch of fewer samples than processes is replicated, as torch does it for its own operators.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

from torch import TensorType
from torch._ops import OpOverload

from .operators import OPERATORS
from .when_imported import when_imported


def _register() -> None:
    """Register the strategies of all operators with ``torch.distributed.tensor``."""
    from torch.distributed.tensor import DTensor
    from torch.distributed.tensor._op_schema import RuntimeSchemaInfo
    from torch.distributed.tensor.experimental import register_sharding

    infos = DTensor._op_dispatcher.sharding_propagator.op_to_schema_info
    for operator in OPERATORS:
        register_sharding(operator)(partial(_acceptable, operator))
        # DTensor remembers shapes for arguments that it takes for equal. Left alone it compares integers, but not
        # whether a triangle is wanted.
        infos[operator] = RuntimeSchemaInfo(_count_tensors(operator), needs_pytree=True)


def _acceptable(operator: OpOverload, *args: Any) -> Sequence[tuple[list[Any], list[Any]]]:
    """List the placements of outputs and of arguments with which an operator can run where its arguments are."""
    from torch.distributed.tensor import Replicate, Shard

    tensors = {i for i, arg in enumerate(args) if hasattr(arg, "placements")}
    # A gradient comes as the layers after the pooling leave it; DTensor brings it to where the samples are.
    for i in tensors - ({0} if operator.name().endswith("_backward") else set()):
        _check_placements(operator, operator._schema.arguments[i].name, args[i].placements)
    outputs = len(operator._schema.returns)
    return [
        ([placement] * outputs, [placement if i in tensors else None for i in range(len(args))])
        for placement in (Shard(0), Replicate())
    ]


def _check_placements(operator: OpOverload, name: str, placements: Sequence[Any]) -> None:
    for placement in placements:
        if not (placement.is_replicate() or placement.is_shard(0)):
            raise ValueError(
                f"{operator.name()} takes DTensors that are sharded on the batch, Shard(0), or replicated; {name} is "
                f"placed as {placement}. {name}.redistribute(placements=[Shard(0)]) gathers what belongs to a sample"
            )


def _count_tensors(operator: OpOverload) -> int:
    tensor = TensorType.get()
    return sum(tensor.isSubtypeOf(argument.type) for argument in operator._schema.arguments)


when_imported("torch.distributed.tensor", _register)
