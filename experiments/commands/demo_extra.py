"""What the commands that train on digits share: whether the ``demo`` extra is here, and what they run on."""

import importlib

import torch

from ..reproduction.origins import machine_name


def missing_packages(*, plotting: bool) -> list[str]:
    """List the distributions of the ``demo`` extra that cannot be imported; scikit-learn stands for scipy too."""
    modules = {"scikit-learn": "sklearn.datasets", "tqdm": "tqdm"}
    if plotting:
        modules["matplotlib"] = "matplotlib.figure"
    missing = []
    for distribution, module in modules.items():
        try:
            importlib.import_module(module)
        except ModuleNotFoundError:
            missing.append(distribution)
    return missing


def device_name(device: torch.device) -> str:
    """Return a GPU's name, or the kind of CPU and torch's threads on it."""
    threads = "" if device.type == "cuda" else f" with {torch.get_num_threads()} threads"
    return machine_name(device) + threads
