"""How many floating-point operations a pass needs, for benchmarks and for ``torch.utils.flop_counter``.

A multiplication and an addition are two, as torch counts. Of a product that is symmetric half is needed and counted:
2 C^3 of a full product of C x C matrices count as C^3. Elementwise work, triangles and decompositions into eigenvalues
or an orthonormal basis are not counted, as torch does not count them either.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from . import backends
from .sides import POSITIONS
from .spectral_pool.side import kept_eigenvectors
from .when_imported import when_imported


def iteration_flop(order: int, n_iter: int, *, of_root: bool = True, kept: bool = False) -> tuple[int, int]:
    """Count the operations of N Newton-Schulz iterations on one matrix, forward and backward.

    All iterates and their tangents are symmetric. In the coupled form of Y and Z (section "Forward" of
    docs/mathematics.md) the first iteration takes one product, A T; each of the N - 2 in the middle three, Z Y, Y T and
    T Z; the last two, Z Y and Y T. That is 3N - 3 in all, and 1 for N = 1. Z_N takes 3N - 3 too: none in the first
    iteration, where Z_1 = T; then W T, W T T and Z T in each.

    Backward is the tangent of the iteration, d(U V) = dU V + U dV, twice as many products; the first of Y, with Z = I
    and dT = -dA / 2, is 2. If the iterates are not ``kept``, all but the last product of them are needed again. Two
    iterations in one take a product fewer than two; that is not counted, so that runs can be compared.
    """
    products = 1 if n_iter == 1 and of_root else 3 * n_iter - 3
    again = 0 if kept else max(products - 1, 0)
    return products * order**3, (2 * products + again) * order**3


def isqrt_pool_flop_on_channels(c: int, m: int, n_iter: int, *, kept: bool = False) -> tuple[int, int]:
    """Count the operations of a sample, forward and backward, with the iteration on the covariance.

    The covariance, (x - mu)(x - mu)^T, is half of 2 C^2 M. It is counted in the forward pass only: an implementation
    may keep it. The product with x - mu at the end of the backward pass is not symmetric: 2 C^2 M.
    """
    forward, backward = iteration_flop(c, n_iter, kept=kept)
    return forward + c**2 * m, backward + 2 * c**2 * m


def isqrt_pool_flop_on_positions(c: int, m: int, n_iter: int, *, kept: bool = False) -> tuple[int, int]:
    """Count the operations of a sample, forward and backward, with the iteration on the Gram matrix of the positions.

    - Forward, besides the iteration: K = z^T z is half of 2 C M^2; T = z q is 2 C M^2, and T z^T half of 2 C^2 M.
    - Backward, besides: H = G z is 2 C^2 M, P = z^T H half of 2 C M^2, and H q + z L twice 2 C M^2.
    """
    forward, backward = iteration_flop(m, n_iter, of_root=False, kept=kept)
    return forward + 3 * c * m**2 + c**2 * m, backward + 2 * c**2 * m + 5 * c * m**2


def covariance_pool_flop(c: int, m: int) -> tuple[int, int]:
    """Count the operations of a sample: the covariance is half of 2 C^2 M, its gradient (G + G^T)(x - mu) is not."""
    return c**2 * m, 2 * c**2 * m


def matrix_function_flop(c: int) -> tuple[int, int]:
    """Count those of U f(l) U^T, half of 2 C^3, and of its gradient: U^T G U and back, each a product and a half."""
    return c**3, 6 * c**3


def spectral_pool_flop(c: int, m: int) -> tuple[int, int]:
    """Count those of a function of the eigenvalues of the covariance, with s = C or M - 1 vectors V.

    - Forward: the covariance is half of 2 C^2 M; on the side of the positions the matrix R R^T is half of 2 s^3, and
      the vectors are turned back, 2 C s^2. V f V^T is half of 2 C^2 s.
    - Backward: H = G V is 2 C^2 s, E = V^T H half of 2 C s^2, V times the result 2 C s^2, and x - mu by way of V twice
      2 C s M.
    """
    on_channels = kept_eigenvectors(c, m) == c
    s = c if on_channels else max(m - 1, 1)
    decomposed = c**2 * m if on_channels else s**3 + 2 * c * s**2
    return decomposed + c**2 * s, 2 * c**2 * s + 3 * c * s**2 + 4 * c * s * m


def _isqrt_pool(x: Tensor, given: dict[str, Any], backward: bool) -> tuple[int, int]:
    _, c, m = x.shape
    name = backends.select("isqrt_pool", x, given["backend"], given["precision"], backward=backward)
    on_positions = backends.BACKENDS[name].side_of(c, m) == POSITIONS
    count = isqrt_pool_flop_on_positions if on_positions else isqrt_pool_flop_on_channels
    return count(c, m, given["n_iter"], kept=_kept(given))


def _kept(given: dict[str, Any]) -> bool:
    """Say whether a backward pass was given iterates."""
    return "iterates" in given and given["iterates"].shape[1] > 0


# Each gives those of a sample, from the tensor that the operation is of and all arguments by name.
_FORMULAS: dict[str, Callable[[Tensor, dict[str, Any], bool], tuple[int, int]]] = {
    "isqrt_pool": _isqrt_pool,
    "covariance_pool": lambda x, *_: covariance_pool_flop(*x.shape[1:]),
    "newton_schulz_sqrt": lambda cov, given, _: iteration_flop(cov.shape[1], given["n_iter"], kept=_kept(given)),
    "newton_schulz_inverse_sqrt": lambda cov, given, _: iteration_flop(cov.shape[1], given["n_iter"], of_root=False),
    "matrix_power": lambda cov, *_: matrix_function_flop(cov.shape[1]),
    "matrix_log": lambda cov, *_: matrix_function_flop(cov.shape[1]),
    "power_pool": lambda x, *_: spectral_pool_flop(*x.shape[1:]),
    "log_pool": lambda x, *_: spectral_pool_flop(*x.shape[1:]),
}


def _register() -> None:
    """Register the formulas with ``torch.utils.flop_counter``, for every operator that multiplies."""
    from torch.utils.flop_counter import register_flop_formula

    for operation in _FORMULAS:
        for backward in (False, True):
            packet = getattr(torch.ops.gcp_kernels, f"{operation}_backward" if backward else operation)
            register_flop_formula(packet, get_raw=True)(_formula(operation, packet, backward))


def _formula(operation: str, packet: Any, backward: bool) -> Callable[..., int]:
    names = [argument.name for argument in packet.default._schema.arguments]

    def count(*args: Any, out_val: Any = None, **kwargs: Any) -> int:
        given = dict(zip(names, args, strict=False)) | kwargs
        tensor = args[1 if backward else 0]
        return int(tensor.shape[0]) * _FORMULAS[operation](tensor, given, backward)[backward]

    return count


when_imported("torch.utils.flop_counter", _register)
