"""Derivatives of matrix functions by the equations that define them, in float64, without eigenvalues or autograd.

If S^k = A, a change E of A and the change L of S obey sum_i S^i L S^(k - 1 - i) = E; if exp(X) = A, the derivative of
the exponential at X in the direction L is E. Both are linear in L, and solved here as systems of C^2 equations. Both
have one solution for positive definite A, with repeated eigenvalues as well as distinct ones.
"""

from decimal import Decimal, localcontext

import torch
from torch import Tensor


def root_derivative(root: Tensor, k: int, e: Tensor) -> Tensor:
    """Solve for L, the derivative of A^(1/k) in the direction E, given S = ``root``, symmetric, (B, C, C) each."""
    return torch.stack([_solve(_powers(s, k), e) for s, e in zip(root.double(), e.double(), strict=True)])


def log_derivative(log: Tensor, e: Tensor) -> Tensor:
    """Solve for L, the derivative of log A in the direction E, given X = ``log``, (B, C, C) each."""
    return torch.stack([_solve(_exponential(x), e) for x, e in zip(log.double(), e.double(), strict=True)])


def symmetric(matrix: Tensor) -> Tensor:
    return (matrix.double() + matrix.double().mT) / 2


def divided_difference(x: float, y: float, alpha: float) -> float:
    """Compute (x^alpha - y^alpha) / (x - y), or of the logarithm for alpha = 0, with x != y positive, in 80 digits."""
    with localcontext() as context:
        context.prec = 80
        return float(_divided_difference(Decimal(x), Decimal(y), Decimal(alpha)))


def second_divided_difference(x: float, y: float, z: float, alpha: float) -> float:
    """Compute f[x, y, z] = (f[x, y] - f[y, z]) / (x - z) of the same functions for three different numbers."""
    with localcontext() as context:
        context.prec = 80
        a, b, c, p = (Decimal(number) for number in (x, y, z, alpha))
        return float((_divided_difference(a, b, p) - _divided_difference(b, c, p)) / (a - c))


def with_eigenvalues(*eigenvalues: float) -> Tensor:
    """Make a matrix (1, C, C) with these eigenvalues and random eigenvectors, symmetric to the last digit."""
    c = len(eigenvalues)
    q, _ = torch.linalg.qr(torch.randn(c, c, dtype=torch.float64))
    matrix = (q * torch.tensor(eigenvalues, dtype=torch.float64)) @ q.mT
    return symmetric(matrix)[None]


def _divided_difference(a: Decimal, b: Decimal, p: Decimal) -> Decimal:
    return (a**p - b**p if p else a.ln() - b.ln()) / (a - b)


def _powers(s: Tensor, k: int) -> Tensor:
    power = torch.linalg.matrix_power
    return sum(torch.kron(power(s, i), power(s, k - 1 - i)) for i in range(k))


def _exponential(x: Tensor) -> Tensor:
    """Read the matrix of L -> derivative of exp at X off exp [[X, L], [0, X]]."""
    c = x.shape[0]
    basis = torch.eye(c * c, dtype=x.dtype).view(c * c, c, c)
    top = torch.cat([x.expand(c * c, c, c), basis], dim=2)
    bottom = torch.cat([torch.zeros_like(basis), x.expand(c * c, c, c)], dim=2)
    return torch.linalg.matrix_exp(torch.cat([top, bottom], dim=1))[:, :c, c:].reshape(c * c, c * c).mT


def _solve(system: Tensor, e: Tensor) -> Tensor:
    return torch.linalg.solve(system, e.flatten()).view_as(e)
