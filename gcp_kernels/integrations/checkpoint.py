"""Published iSQRT-COV ResNets, in the names of a converted torchvision or timm ResNet."""

import os
import re
from collections.abc import Mapping
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..checkpoint_file import CheckpointError, read_checkpoint
from ..listing import listed
from ..nn import GCP, rename_reduction_keys
from ..wrappers import unwrapped, without_wrappers
from .request import UnsupportedModelError

_REDUCTION, _CLASSIFIER = "<reduction>", "<classifier>"

# Patterns of published names, and the names of torchvision that replace them; the first pattern that fits is taken.
# "{0}" is the first group, a number; "{0-3}" is that number less 3. rename_reduction_keys comes first, so layer_reduce
# is conv_dr_block.0 already.
_NAMES = (
    # The reduction by its own name, wherever it stands: in the network, in ``representation``, in ``avgpool``.
    (r"(?:.*\.)?conv_dr_block\.", f"{_REDUCTION}."),
    # fast-MPN-COV: the children of a ResNet in order, the reduction behind them where it was pre-trained with them.
    (r"features\.0\.", "conv1."),
    (r"features\.1\.", "bn1."),
    (r"features\.([4-7])\.", "layer{0-3}."),
    (r"features\.8\.", f"{_REDUCTION}.0."),
    (r"features\.9\.", f"{_REDUCTION}.1."),
    # pytorchcv
    (r"features\.init_block\.conv\.conv\.", "conv1."),
    (r"features\.init_block\.conv\.bn\.", "bn1."),
    (r"features\.stage(\d+)\.unit(\d+)\.body\.conv(\d+)\.conv\.", "layer{0}.{1-1}.conv{2}."),
    (r"features\.stage(\d+)\.unit(\d+)\.body\.conv(\d+)\.bn\.", "layer{0}.{1-1}.bn{2}."),
    (r"features\.stage(\d+)\.unit(\d+)\.identity_conv\.conv\.", "layer{0}.{1-1}.downsample.0."),
    (r"features\.stage(\d+)\.unit(\d+)\.identity_conv\.bn\.", "layer{0}.{1-1}.downsample.1."),
    (r"features\.final_block\.conv\.", f"{_REDUCTION}.0."),
    (r"features\.final_block\.bn\.", f"{_REDUCTION}.1."),
    # torchvision's fc, fast-MPN-COV's classifier, pytorchcv's output
    (r"(?:fc|classifier|output)\.", f"{_CLASSIFIER}."),
)

# Entries that are no weights: how many batches a normalisation has seen, how many models an AveragedModel averages.
_COUNT, _AVERAGED = "num_batches_tracked", "n_averaged"
# So many names of each kind are in an error; the others are counted.
_SHOWN = 5


class LoadedKeys(NamedTuple):
    """What ``load_state_dict`` returns: names that only the model has, and that only the checkpoint has."""

    missing_keys: list[str]
    unexpected_keys: list[str]


def load_isqrt_checkpoint(
    model: nn.Module, state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str], strict: bool = True
) -> LoadedKeys:
    """Load a published iSQRT-COV ResNet into one that :func:`replace_pool` or :mod:`gcp_kernels.models` made.

    Known are the layouts of fast-MPN-COV (``layer_reduce`` next to ``layer4``; ``features`` / ``representation`` /
    ``classifier`` with ``conv_dr_block`` in the representation or the reduction at the end of ``features``), of
    pytorchcv (``features.stage1.unit1``...) and of the model itself. ``module.`` of a DataParallel model and
    ``_orig_mod.`` of a compiled one are left out wherever they stand, in the checkpoint and in the model, and a
    training checkpoint may hold the weights under ``state_dict``. Batch counts that very old checkpoints lack stay as
    they are in the model, and the count of an AveragedModel is not loaded.

    Args:
        model: a ResNet of torchvision or timm with ``GCP`` as its pool; on any device but meta, in any dtype. It may be
            compiled, sharded by ``fully_shard``, or in a DataParallel, DistributedDataParallel or AveragedModel, and
            so may be parts of it.
        state_dict_or_path: the checkpoint, or the file in which ``torch.save`` put it. Its checksums are compared; a
            file from before torch 1.6 has none. It is read with ``weights_only=True``, so it cannot run code.
        strict: whether every name must be there on both sides. Otherwise one must. Shapes must fit either way.

    Returns:
        The missing and unexpected names, both empty if ``strict``; those of the checkpoint as they stand in it.

    Raises:
        UnsupportedModelError: ``model`` is not such a ResNet.
        TypeError: ``model`` is no module, or sharded by FullyShardedDataParallel; the checkpoint is not a mapping of
            names to tensors, nor a path.
        ValueError: two of its entries would get one name; the model is on the meta device.
        OSError: the file is not there, or must not be read.
        CheckpointError: the file is damaged or holds something else; names are missing or unexpected, or shapes or
            kinds of numbers differ, of which the message names the first. A ``RuntimeError``; the model is unchanged.

    Example:
        >>> import torchvision
        >>> from gcp_kernels.integrations import load_isqrt_checkpoint, replace_pool
        >>> model = replace_pool(torchvision.models.resnet18(), num_classes=3, dim=8, keep_stride=False)
        >>> published = {f"module.{name}": tensor for name, tensor in model.state_dict().items()}
        >>> load_isqrt_checkpoint(model, published)
        LoadedKeys(missing_keys=[], unexpected_keys=[])
    """
    if not isinstance(strict, bool):
        raise TypeError(f"strict must be True or False, got {strict!r}")
    model = unwrapped(model)
    pool_name = _pool_name(model)
    checkpoint = _tensors_of(state_dict_or_path)
    places = {_REDUCTION: f"{pool_name}.conv_dr_block", _CLASSIFIER: "fc"}
    given: dict[str, str] = {}
    for name in checkpoint:
        if without_wrappers(name) == _AVERAGED:
            continue
        new_name = _name_in_model(name, places)
        if new_name in given:
            raise ValueError(f"the checkpoint has two entries for {new_name!r}: {given[new_name]!r} and {name!r}")
        given[new_name] = name
    state = model.state_dict()
    if any(tensor.is_meta for tensor in state.values()):
        raise ValueError(
            "the model is on the meta device, where nothing can be loaded: model.to_empty(device=...) first"
        )
    # A part of the model may be wrapped as well.
    own = {without_wrappers(name): name for name in state}
    keys = LoadedKeys(
        [name for name in own if name not in given and not name.endswith(_COUNT)],
        [old for new, old in given.items() if new not in own],
    )
    renamed = {new: checkpoint[old] for new, old in given.items() if new in own}
    faults = [
        f"{given[name]} {difference}"
        for name, tensor in renamed.items()
        if (difference := _difference(tensor, name, state[own[name]])) is not None
    ]
    faults = [listed(faults, _SHOWN, separator="; ", rest="more that differ")] if faults else []
    if all(name.endswith(_COUNT) for name in renamed):
        faults.append(f"it has {listed(checkpoint, _SHOWN) or 'no entries'}, and the model {listed(own, _SHOWN)}")
    else:
        if strict and keys.missing_keys:
            faults.append(f"the checkpoint lacks {listed(keys.missing_keys, _SHOWN)}")
        if strict and keys.unexpected_keys:
            faults.append(f"the model has no place for {listed(keys.unexpected_keys, _SHOWN)}")
    if faults:
        raise CheckpointError(f"the checkpoint does not fit this {type(model).__name__}: {'; '.join(faults)}")
    fitting = {own[name]: _distributed(tensor, state[own[name]]) for name, tensor in renamed.items()}
    model.load_state_dict(fitting, strict=False)
    return keys


def _pool_name(model: nn.Module) -> str:
    """Return the name of the model's only GCP layer."""
    modules = {without_wrappers(name): module for name, module in model.named_modules()}
    pools = [name for name, module in modules.items() if isinstance(module, GCP)]
    if len(pools) != 1 or "layer4" not in modules or not isinstance(modules.get("fc"), nn.Linear):
        raise UnsupportedModelError(
            "iSQRT-COV checkpoints load into a ResNet of torchvision or timm with one GCP layer as its pool "
            f"(gcp_kernels.integrations.replace_pool, gcp_kernels.models) and a linear fc; got a "
            f"{type(model).__name__} with {len(pools)} GCP layers"
        )
    return pools[0]


def _tensors_of(state_dict_or_path: Mapping[str, Any] | str | os.PathLike[str]) -> dict[str, Tensor]:
    """Return the checkpoint's tensors by name."""
    if not isinstance(state_dict_or_path, str | os.PathLike):
        return _named_tensors(state_dict_or_path)
    try:
        return _named_tensors(read_checkpoint(state_dict_or_path))
    except TypeError as error:  # not of an argument but of what the file holds
        raise CheckpointError(f"{os.fspath(state_dict_or_path)}: {error}") from None


def _named_tensors(checkpoint: Any) -> dict[str, Tensor]:
    if isinstance(checkpoint, Mapping) and isinstance(checkpoint.get("state_dict"), Mapping):
        checkpoint = checkpoint["state_dict"]
    if not isinstance(checkpoint, Mapping):
        raise TypeError(f"the checkpoint must be a mapping of names to tensors, got {type(checkpoint).__name__}")
    for name, tensor in checkpoint.items():
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise TypeError(f"the checkpoint must map names to tensors, got a {type(tensor).__name__} at {name!r}")
    return dict(checkpoint)


def _difference(tensor: Tensor, name: str, own: Tensor) -> str | None:
    """Say why ``tensor`` cannot be loaded into ``own``, or return ``None``; the precision may differ."""
    if tensor.shape != own.shape:
        return f"has shape {tuple(tensor.shape)}, and {name} of the model {tuple(own.shape)}"
    if tensor.layout != torch.strided or tensor.is_meta:
        return f"holds no dense values ({tensor.layout} on {tensor.device}) for {name} of the model"
    if tensor.is_floating_point() != own.is_floating_point() or tensor.is_complex():
        return f"is {tensor.dtype}, and {name} of the model {own.dtype}"
    return None


def _distributed(tensor: Tensor, own: Tensor) -> Tensor:
    """Cut ``tensor`` into slices as ``own`` is, where ``fully_shard`` has cut that."""
    if not hasattr(own, "device_mesh"):
        return tensor
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(own, DTensor)
    return distribute_tensor(tensor, own.device_mesh, own.placements)


def _name_in_model(name: str, places: Mapping[str, str]) -> str:
    """Return the name that a published entry has in the model."""
    (name,) = rename_reduction_keys({without_wrappers(name): None})
    for pattern, replacement in _NAMES:
        match = re.match(pattern, name)
        if match is None:
            continue
        numbers = [int(group) for group in match.groups()]
        prefix = re.sub(r"\{(\d+)(-\d+)?\}", partial(_counted_from, numbers), replacement)
        for place, own in places.items():
            prefix = prefix.replace(place, own)
        return prefix + name[match.end() :]
    return name


def _counted_from(numbers: list[int], field: re.Match[str]) -> str:
    """Return the number that a field such as "{1-1}" stands for: the second one, less one."""
    return str(numbers[int(field[1])] + int(field[2] or 0))
