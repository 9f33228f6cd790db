"""Useful products of 16x16 blocks of a sample, of which a kernel cannot execute fewer: symmetric results counted once.

A kernel executes more where its tiles reach beyond a matrix, or where it makes something a second time.
"""

from __future__ import annotations

from dataclasses import dataclass

from gcp_kernels.precision import PLANES

BLOCK = 16
# mma instructions of a product of blocks.
INSTRUCTIONS = 2


@dataclass(frozen=True)
class Useful:
    """Products of blocks: of the iteration, ``steps`` steps of k of results of so many blocks each, and others."""

    steps: int
    blocks: int
    others: int

    @property
    def products(self) -> int:
        return self.steps * self.blocks + self.others


def pairs(planes: int) -> int:
    """Products of planes for one of matrices: high by low, low by high and high by high, or the last alone."""
    return 3 if planes == 2 else 1


def iteration_products(n_iter: int, last_two_in_one: bool = True) -> int:
    """Count the products of matrices in N iterations, see csrc/isqrt_pool/iteration.cuh.

    Each but the first takes three, and the last two together five where they are one. What the first takes, for N = 1
    on the side of the channels, is not counted.
    """
    return 3 * (n_iter - 1) - (1 if last_two_in_one and n_iter >= 3 else 0)


def useful(kernel: str, channels: int, positions: int, n_iter: int, precision: str) -> Useful:
    """Count for one sample.

    Raises:
        ValueError: nobody has counted for this kernel.
    """
    rows, columns = -(-channels // BLOCK), -(-positions // BLOCK)
    triangle = rows * (rows + 1) // 2
    each = pairs(PLANES[precision])
    covariance = each * columns * triangle
    if kernel == "isqrt_pool_forward_kernel":
        return Useful(each * max(iteration_products(n_iter), 1) * rows, triangle, covariance)
    if kernel == "isqrt_pool_backward_kernel":
        # A product and the two of its tangent; and L z, of which both are split in every precision. Two
        # iterations in one would break the promise here.
        iteration = max(iteration_products(n_iter, last_two_in_one=False), 1)
        return Useful(3 * each * iteration * rows, triangle, covariance + pairs(2) * rows * rows * columns)
    # On the side of the positions, K is (M, M) and q, a factor of the result, takes no product where N is 1.
    square = columns * (columns + 1) // 2
    steps = each * iteration_products(n_iter) * columns
    if kernel == "isqrt_pool_positions_forward_kernel":
        # K, and behind the iteration z q and z q z^T.
        return Useful(steps, square, each * (rows * square + rows * columns**2 + triangle * columns))
    if kernel == "isqrt_pool_positions_backward_kernel":
        # K and P, H = G z of which z is split in every precision, and H q + z L, of which all are.
        direction = (2 if each == 1 else each) * rows**2 * columns
        return Useful(3 * steps, square, 2 * each * rows * square + direction + 2 * pairs(2) * rows * columns**2)
    raise ValueError(f"no products are counted for {kernel}")
