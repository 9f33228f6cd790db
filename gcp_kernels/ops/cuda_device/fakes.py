"""Shapes of what those operators of the extension return that exported programs call."""

from collections.abc import Callable
from functools import cache
from typing import Any

import torch
from torch import Tensor

from ..shapes import pooled_shape, triangle_order
from .extension import library_name


@cache
def register_fakes() -> None:
    """Register them with torch, once, for the loaded extension."""

    def isqrt_pool(x: Tensor, n_iter: int, triu: bool, planes: int, positions: bool) -> Tensor:
        return x.new_empty(pooled_shape(x.shape[0], x.shape[1], triu))

    def covariance_pool(x: Tensor, scale: Tensor | None, triu: bool, planes: int) -> Tensor:
        return x.new_empty(pooled_shape(x.shape[0], x.shape[1], triu))

    def triu_vec(matrix: Tensor, fold: bool) -> Tensor:
        return matrix.new_empty(pooled_shape(matrix.shape[0], matrix.shape[1], triu=True))

    def triu_unvec(vector: Tensor, mirror: bool) -> Tensor:
        b, size = vector.shape
        return vector.new_empty(pooled_shape(b, triangle_order(size), triu=False))

    fakes: dict[str, Callable[..., Any]] = {
        "isqrt_pool_inference": isqrt_pool,
        "covariance_pool_inference": covariance_pool,
        "triu_vec": triu_vec,
        "triu_unvec": triu_unvec,
    }
    for name, fake in fakes.items():
        torch.library.register_fake(f"{library_name()}::{name}", fake)
