"""Checks of arguments, before any work. The errors are typed, and name the value and what is allowed."""

from math import inf, prod
from types import NoneType

import torch
from torch import Tensor, bfloat16, float16, float32, float64, nn, strided

from .precision import autocast_enabled

FLOATING_DTYPES = (float16, bfloat16, float32, float64)


def check_floating(name: str, tensor: object) -> None:
    """Raise ``TypeError`` unless ``tensor`` is a dense tensor of a floating-point dtype that the kernels know."""
    if not isinstance(tensor, Tensor):
        raise TypeError(f"{name} must be a torch.Tensor, got {type(tensor).__name__}")
    if tensor.dtype not in FLOATING_DTYPES:
        raise TypeError(f"{name} must be float16, bfloat16, float32 or float64, got {tensor.dtype}")
    if tensor.layout != strided or tensor.is_nested:
        kind = "a nested one" if tensor.is_nested else tensor.layout
        raise TypeError(f"{name} must be a dense (strided) tensor, got {kind}")


def check_features(x: Tensor, channel_dim: int) -> None:
    """Raise unless ``x`` is a batch of features with channels in ``channel_dim`` and at least one position."""
    check_floating("x", x)
    if x.dim() < 3:
        raise ValueError(
            f"x must have a batch, a channel and at least one spatial dimension, such as (B, C, H, W), "
            f"got shape {tuple(x.shape)}"
        )
    check_integer("channel_dim", channel_dim)
    if not -x.dim() < channel_dim < x.dim() or channel_dim == 0:
        raise ValueError(
            f"channel_dim must be a dimension of x other than the batch (1 to {x.dim() - 1}, or -1 to "
            f"{1 - x.dim()}), got {channel_dim} for shape {tuple(x.shape)}"
        )
    if 0 in x.shape[1:]:
        raise ValueError(
            f"x must have at least one channel and one position, got shape {tuple(x.shape)} "
            f"with channel_dim={channel_dim}"
        )


def check_positions_in_training(x: Tensor, channel_dim: int) -> None:
    """Raise if the features have one position: its covariance is zero, and a layer would learn nothing without a word.

    Batch normalisation refuses a single value for each channel in the same way. Evaluation is not refused.
    """
    shape = list(x.shape)
    del shape[channel_dim]
    if prod(shape[1:]) == 1:
        raise ValueError(
            f"expected more than 1 position per sample when training, got shape {tuple(x.shape)} with "
            f"channel_dim={channel_dim}: the covariance of one position is zero, and so is its gradient. Give larger "
            "images, or more tokens, or a backbone with less stride (keep_stride=False of replace_pool)"
        )


def check_scale(scale: Tensor, x: Tensor, channel_dim: int = 1) -> None:
    """Raise unless ``scale`` is (B, C), a number for each channel of the features ``x``, and on their device."""
    check_floating("scale", scale)
    check_shape("scale", scale, (x.shape[0], x.shape[channel_dim]))
    if scale.device != x.device:
        raise ValueError(f"scale must be on the device of x, {x.device}, got {scale.device}")


def check_matrices(name: str, matrices: Tensor, dim: int | None = None) -> None:
    """Raise unless ``matrices`` are non-empty square matrices in the last two of ``dim`` dimensions (any if None)."""
    check_floating(name, matrices)
    layout = "(..., C, C)" if dim is None else "(B, C, C)"
    right_dim = matrices.dim() >= 2 if dim is None else matrices.dim() == dim
    if not right_dim or matrices.shape[-1] != matrices.shape[-2] or matrices.shape[-1] == 0:
        raise ValueError(f"{name} must have shape {layout} with C >= 1, got {tuple(matrices.shape)}")


def check_shape(name: str, tensor: Tensor, *allowed: tuple[int, ...]) -> None:
    """Raise ``ValueError`` unless ``tensor`` has one of the shapes allowed."""
    if tensor.shape not in allowed:
        raise ValueError(f"{name} must have shape {' or '.join(map(str, allowed))}, got {tuple(tensor.shape)}")


def check_module(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is a module. A class of modules is not one."""
    if not isinstance(value, nn.Module):
        given = f"the class {value.__name__}, not a module of it" if isinstance(value, type) else type(value).__name__
        raise TypeError(f"{name} must be a torch.nn.Module, got {given}")


def check_parameter_options(device: object, dtype: object) -> None:
    """Raise unless ``device`` and ``dtype`` are each ``None``, or one that parameters can have."""
    if dtype is not None and (not isinstance(dtype, torch.dtype) or dtype not in FLOATING_DTYPES):
        raise TypeError(f"dtype must be torch.float16, bfloat16, float32, float64 or None, got {dtype!r}")
    if isinstance(device, bool) or not isinstance(device, (torch.device, str, int, NoneType)):
        raise TypeError(
            f"device must be a torch.device, its name, or None, got {device!r} of type {type(device).__name__}"
        )
    if isinstance(device, str | int):
        try:
            torch.device(device)
        except RuntimeError as error:
            raise ValueError(f"device must be one that torch knows, such as cpu or cuda:0, got {device!r}") from error


def check_has_values(name: str, tensor: Tensor) -> None:
    """Raise ``ValueError`` for a tensor on the meta device."""
    if tensor.is_meta:
        raise ValueError(f"{name} must hold values, got a tensor on the meta device")


def check_fits_parameters(name: str, x: object, module: nn.Module) -> None:
    """Raise ``TypeError`` or ``ValueError`` unless ``x`` has the dtype and device of the parameters of ``module``.

    Autocast converts all dtypes but float64 by itself. Nothing is refused where the layer may compute with other
    parameters than those it has now: where another kind of tensor replaces them, or hooks bring them (offloading,
    sharding).
    """
    if not isinstance(x, Tensor):  # torch.fx traces the layer itself: its modules check when the graph runs
        return
    parameter = next(module.parameters(), None)
    if type(parameter) is not nn.Parameter or (x.dtype == parameter.dtype and x.device == parameter.device):
        return
    if any(part._forward_pre_hooks or "forward" in vars(part) for part in module.modules()):
        return
    if x.device != parameter.device:
        raise ValueError(f"{name} must be on the device of the layer, {parameter.device}, got {x.device}")
    if not autocast_enabled(x.device) or float64 in (x.dtype, parameter.dtype):
        raise TypeError(
            f"{name} must have the dtype of the layer's parameters, {parameter.dtype}, got {x.dtype}; convert either, "
            "or use autocast, which converts all but float64"
        )


def check_integer(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is an int."""
    if not isinstance(value, int) or isinstance(value, bool):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}")


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ``TypeError`` unless ``value`` is an int, ``ValueError`` if it is below ``least``."""
    check_integer(name, value)
    if value < least:
        raise ValueError(f"{name} must be at least {least}, got {value}")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``allowed``."""
    # An array would be compared element by element, and its truth value raises.
    if not isinstance(value, (str, int, NoneType)) or value not in allowed:
        raise ValueError(f"{name} must be one of {', '.join(map(repr, allowed))}, got {value!r}")


def check_number(name: str, value: object) -> None:
    """Raise ``TypeError`` unless ``value`` is an int or a float."""
    if not isinstance(value, (int, float)) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {value!r} of type {type(value).__name__}")


def check_positive(name: str, value: float, most: float = inf) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` unless above 0, finite and at most ``most``."""
    check_number(name, value)
    if not 0 < value <= most or value == inf:
        limit = "finite" if most == inf else f"at most {most}"
        raise ValueError(f"{name} must be above 0 and {limit}, got {value}")


def check_not_negative(name: str, value: float) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` if it is negative or not finite."""
    check_number(name, value)
    if not 0 <= value < inf:
        raise ValueError(f"{name} must be at least 0 and finite, got {value}")


def check_gate_weight(gate_weight: Tensor, x: Tensor) -> None:
    """Raise unless ``gate_weight``, the kernel of a convolution, is (1, 1, k) with k odd and on the device of ``x``."""
    check_floating("gate_weight", gate_weight)
    shape = gate_weight.shape
    if gate_weight.dim() != 3 or shape[:2] != (1, 1) or shape[2] % 2 == 0:
        raise ValueError(f"gate_weight must have shape (1, 1, k) with k odd, got {tuple(shape)}")
    if gate_weight.device != x.device:
        raise ValueError(f"gate_weight must be on the device of x, {x.device}, got {gate_weight.device}")


def check_mask(mask: Tensor | None, features: Tensor) -> None:
    """Raise unless ``mask`` is ``None``, or a bool for each channel of (B, C, M) features and on their device."""
    if mask is None:
        return
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        given = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(f"mask must be a torch.Tensor of torch.bool or None, got {given}")
    check_shape("mask", mask, tuple(features.shape[:2]))
    if mask.device != features.device:
        raise ValueError(f"mask must be on the device of x, {features.device}, got {mask.device}")


def check_generator(generator: torch.Generator | None, device: torch.device) -> None:
    """Raise unless ``generator`` is ``None`` or a ``torch.Generator`` of ``device``.

    One that was made for "cuda" has no index, unlike a tensor, and torch draws with it on any device of that type.
    """
    if generator is None:
        return
    if not isinstance(generator, torch.Generator):
        raise TypeError(f"generator must be a torch.Generator or None, got {type(generator).__name__}")
    given = generator.device
    if given.type != device.type or given.index not in (None, device.index):
        raise ValueError(f"generator must be on the device of x, {device}, got {given}")
