"""Functions f(A) = U diag(f(l)) U^T of the eigenvalues of symmetric matrices, for the reference.

Where eigenvalues are equal, autograd through the eigenvectors is NaN, although f(A) is as smooth there as anywhere. So
the first and the second derivative are written out here, for reverse and for forward mode.
"""

from typing import Any

import torch
from torch import Tensor

from .transforms import hides_operators, tangents_of_tangents

# Eigenvalues up to so many units of rounding of the largest count as zero. Of the covariances of 3 to 195 independent
# positions with 8 to 512 channels, decomposed in float32 and float64, those that should be zero had at most 3.
ZERO_EIGENVALUE = 10


def eigh(matrix: Tensor) -> tuple[Tensor, Tensor]:
    """Find the eigenvalues, ascending, (..., C), and eigenvectors of symmetric matrices (..., C, C), in their dtype.

    float32 matrices are decomposed in float64, and the result is rounded, for neither float32 of torch will do:

    - On a CPU, LAPACK's is NaN or does not converge for some covariances with many channels that are zero everywhere,
      as behind a ReLU: for 223 of 1,500 random ones, 64 x 64, with 8 live channels. In float64 none fails.
    - On a GPU cuSOLVER's, for 32 to 512 rows Jacobi's method, rounds thousands of rotations one after another. On an
      H100 (torch 2.11, CUDA 13.0) roots of 256 x 256 matrices were off by 1.3e-4, and by less than 5e-6 in float64.

    It takes the memory of float64 copies of matrices and vectors. On a CPU it takes 1.3 to 1.5 times as long at 64 x 64
    and 2.1 to 2.2 times at 256 x 256; on a GPU this has not been measured, and the rate of float64 is half of float32's
    on an H100 and 1/64 of it on GPUs for graphics.
    """
    eigenvalues, vectors = torch.linalg.eigh(matrix.double())
    return eigenvalues.to(matrix.dtype), vectors.to(matrix.dtype)


def spectrum(a: Tensor, shift: float) -> tuple[Tensor, Tensor]:
    """Find eigenvalues plus ``shift``, (..., C), and eigenvectors, (..., C, C), of the symmetric part; NaN for NaN."""
    a = (a + a.mT) / 2
    finite = a.isfinite().all(-1).all(-1)[..., None]
    eigenvalues, u = eigh(torch.where(finite[..., None], a, 0))  # which raises for any NaN in the batch
    zero = eigenvalues <= ZERO_EIGENVALUE * torch.finfo(a.dtype).eps * eigenvalues[..., -1:]
    return torch.where(finite, torch.where(zero, 0, eigenvalues) + shift, torch.nan), u


# Below, f is x^p, or log x for p = 0: up to a factor, both have the derivative x^(p - 1).


def _divided_difference(x: Tensor, y: Tensor, p: float) -> Tensor:
    """Compute f[x, y] = (f(x) - f(y)) / (x - y) for x, y >= 0; f'(x) if they are equal, 0 where that is infinite."""
    high, low = torch.maximum(x, y), torch.minimum(x, y)
    ratio = low / torch.where(high == 0, 1, high)
    equal = ratio == 1
    ratio = torch.where(equal, 0.5, ratio)
    # The logarithm of a ratio near 1 is exact to its last digit, and nothing cancels in the formula with it.
    change = torch.expm1(p * ratio.log()) if p else ratio.log()
    difference = high ** (p - 1) * torch.where(equal, p or 1.0, change / (ratio - 1))
    return torch.where(high == 0, 0, difference) if p < 1 else difference


def _second_divided_difference(x: Tensor, y: Tensor, z: Tensor, p: float) -> Tensor:
    """Compute f[x, y, z] = (f[x, y] - f[y, z]) / (x - z), for x, y, z >= 0 in any order; f''(x) / 2 if all equal."""
    low, middle, high = torch.stack(torch.broadcast_tensors(x, y, z)).sort(0).values
    close = high - low <= torch.finfo(x.dtype).eps ** 0.2 * high
    span = torch.where(close, 1, high - low)
    apart = (_divided_difference(high, middle, p) - _divided_difference(middle, low, p)) / span

    # If all three are close: the Taylor series about their mean. The first term left out is about as small as rounding.
    mean = torch.where(high == 0, 1, (low + middle + high) / 3)
    x, y, z = low - mean, middle - mean, high - mean

    def coefficient(k: int) -> Tensor:  # the k-th derivative at the mean, divided by k!
        factor = p or 1.0
        for j in range(1, k):
            factor *= (p - j) / (j + 1)
        return factor * mean ** (p - k)

    series = coefficient(2) + coefficient(4) * (x * x + y * y + z * z) / 2 + coefficient(5) * x * y * z
    at_zero = 1.0 if p == 2 else 0.0
    return torch.where(close, torch.where(high == 0, at_zero, series), apart)


class _Context(torch.autograd.function.FunctionCtx):
    """What the two functions below keep: f, as p; what is added to the eigenvalues; and tensors."""

    p: float
    shift: float
    saved_tensors: tuple[Tensor, ...]


def function_of_eigenvalues(a: Tensor, p: float, shift: float) -> Tensor:
    """Apply f to the eigenvalues, plus ``shift``, of (..., C, C) matrices: the power ``p``, or the logarithm for p = 0.

    Raises:
        RuntimeError: inside ``torch.compile`` around a derivative of ``torch.func``, of which the compiler would make
            that of the eigenvectors.
    """
    if not torch.compiler.is_compiling():
        return _MatrixFunctionWithTangent.apply(a, p, shift)
    if hides_operators():  # of which this is one, for a compiler
        raise RuntimeError(
            "gcp_kernels: matrix_power and matrix_log have no derivative inside torch.compile around a transform of "
            "torch.func (grad, vjp, jvp and so on); do not compile the transform"
        )
    return _MatrixFunction.apply(a, p, shift)


def _derivative(a: Tensor, g: Tensor, p: float, shift: float) -> Tensor:
    """Compute L_f(A, G), the derivative of f(A) in the direction G."""
    kind = _DerivativeOfMatrixFunction if torch.compiler.is_compiling() else _DerivativeWithTangent
    return kind.apply(a, g, p, shift)


class _OfMatrices(torch.autograd.Function):
    """A function of matrices (..., C, C): under ``torch.vmap`` they have one more dimension in front."""

    @classmethod
    def vmap(cls, info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
        def in_front(arg: Any, dim: int | None) -> Any:
            if not isinstance(arg, Tensor):
                return arg
            return arg.expand(info.batch_size, *arg.shape) if dim is None else arg.movedim(dim, 0)

        return cls.apply(*map(in_front, args, in_dims)), 0


class _MatrixFunction(_OfMatrices):
    """f(A) = U diag(f(l)) U^T, with a derivative that is no NaN for equal eigenvalues."""

    @staticmethod
    def forward(a: Tensor, p: float, shift: float) -> Tensor:
        x, u = spectrum(a, shift)
        return (u * (x**p if p else x.log())[..., None, :]) @ u.mT

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, float, float], output: Tensor) -> None:
        a, ctx.p, ctx.shift = inputs
        ctx.save_for_backward(a)
        ctx.save_for_forward(a)

    @staticmethod
    def backward(ctx: _Context, grad: Tensor) -> tuple[Tensor | None, ...]:
        (a,) = ctx.saved_tensors
        return _derivative(a, grad, ctx.p, ctx.shift), None, None


# Apart from the class above, because compilers refuse an autograd.Function that has a jvp.
class _MatrixFunctionWithTangent(_MatrixFunction):
    @staticmethod
    def jvp(ctx: _Context, tangent: Tensor, *_: None) -> Tensor:
        with tangents_of_tangents(*ctx.saved_tensors) as (a,):
            return _derivative(a, tangent, ctx.p, ctx.shift)


class _DerivativeOfMatrixFunction(_OfMatrices):
    """L_f(A, G) = U (f[l_i, l_j] o U^T G U) U^T for the symmetric part G of a matrix (Daleckii and Krein).

    As a function of G it is its own adjoint. As a function of A it has the derivative in the direction E

        U (sum over k of f[l_i, l_k, l_j] (G'_ik E'_kj + E'_ik G'_kj)) U^T,    G' = U^T G U, E' = U^T E U,

    and since f[., ., .] is symmetric, the gradient of <H, L_f(A, G)> by A is the same formula with H instead of E.
    """

    @staticmethod
    def forward(a: Tensor, g: Tensor, p: float, shift: float) -> Tensor:
        x, u = spectrum(a, shift)
        rotated = u.mT @ (g + g.mT) @ u / 2
        return u @ (_divided_difference(x[..., :, None], x[..., None, :], p) * rotated) @ u.mT

    @staticmethod
    def setup_context(ctx: _Context, inputs: tuple[Tensor, Tensor, float, float], output: Tensor) -> None:
        a, g, ctx.p, ctx.shift = inputs
        ctx.save_for_backward(a, g)
        ctx.save_for_forward(a, g)

    @staticmethod
    def backward(ctx: _Context, h: Tensor) -> tuple[Tensor | None, ...]:
        a, g = ctx.saved_tensors
        by_a = _second_derivative(a, g, h, ctx.p, ctx.shift)
        return by_a, _derivative(a, h, ctx.p, ctx.shift), None, None


class _DerivativeWithTangent(_DerivativeOfMatrixFunction):
    @staticmethod
    def jvp(ctx: _Context, e: Tensor, h: Tensor, *_: None) -> Tensor:
        with tangents_of_tangents(*ctx.saved_tensors) as (a, g):
            by_a = _second_derivative(a, g, e, ctx.p, ctx.shift)
            return by_a + _derivative(a, h, ctx.p, ctx.shift)


def _second_derivative(a: Tensor, g: Tensor, h: Tensor, p: float, shift: float) -> Tensor:
    """Compute the derivative of L_f(A, G) by A in the direction H; it equals that of L_f(A, H) in the direction G."""
    x, u = spectrum(a, shift)
    g_rotated, h_rotated = (u.mT @ (m + m.mT) @ u / 2 for m in (g, h))
    total = torch.zeros_like(a)
    for k in range(a.shape[-1]):
        weights = _second_divided_difference(x[..., :, None], x[..., k, None, None], x[..., None, :], p)
        product = g_rotated[..., :, k, None] * h_rotated[..., None, k, :]
        total = total + weights * (product + product.mT)
    return u @ total @ u.mT
