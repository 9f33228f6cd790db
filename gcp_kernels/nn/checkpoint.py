"""rename_reduction_keys: the entries of published checkpoints by the names that the layers here have."""

from collections.abc import Mapping
from typing import Any

_REDUCTION_NAMES = {"layer_reduce": "conv_dr_block.0", "layer_reduce_bn": "conv_dr_block.1"}


def rename_reduction_keys(state_dict: Mapping[str, Any]) -> dict[str, Any]:
    """Rename the reduction of a checkpoint from ``layer_reduce*`` to ``conv_dr_block.*``, as :class:`GCP` has it.

    Published iSQRT-COV checkpoints name the reduction either way. ``layer_reduce.weight`` becomes
    ``conv_dr_block.0.weight``, ``layer_reduce_bn.running_mean`` becomes ``conv_dr_block.1.running_mean`` and so on;
    a prefix such as ``module.`` stays. All other keys are kept, as is the order.

    Args:
        state_dict: as given by ``torch.load`` or ``Module.state_dict``; not changed.

    Raises:
        TypeError: ``state_dict`` is no mapping, or one of its names no string.
        ValueError: two keys would get one name.

    Example:
        >>> from gcp_kernels.nn import rename_reduction_keys
        >>> rename_reduction_keys({"layer_reduce.weight": 1, "fc.bias": 2})
        {'conv_dr_block.0.weight': 1, 'fc.bias': 2}
    """
    if not isinstance(state_dict, Mapping):
        raise TypeError(f"state_dict must be a mapping of names to tensors, got {type(state_dict).__name__}")
    renamed: dict[str, Any] = {}
    for key, value in state_dict.items():
        if not isinstance(key, str):
            raise TypeError(f"state_dict must have names as its keys, got {key!r} of type {type(key).__name__}")
        new_key = ".".join(_REDUCTION_NAMES.get(part, part) for part in key.split("."))
        if new_key in renamed:
            raise ValueError(f"the checkpoint has two entries for {new_key!r}, one of them named {key!r}")
        renamed[new_key] = value
    return renamed
