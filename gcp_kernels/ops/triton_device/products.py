"""Matrix products on tensor cores, from operands split into float16 planes.

An operand is lifted by a power of two and kept as one float16 plane ("fast", an 11-bit significand) or as two, a high
and a low one that holds what the first rounded away ("high", 22 bits). Products of planes are summed in float32; the
product of two low planes is below the rounding of the rest and left out. The lift keeps the low planes of matrices
whose elements are near 1/C out of float16's subnormal range. No operand grows beyond its range: features and
covariances are normalised, and so is the gradient that a tangent starts from, see :func:`growth_of`.

Tensor cores cut off what they add up: every addend of a product is aligned to the largest, the sum so far among them,
and truncated. In "high" no accumulator of theirs takes more than one step of a sum, 64 elements at most; the steps are
added in float32, rounded to nearest. What is added is unlifted first, else Triton folds the addition back into the dot.
"""

import triton
import triton.language as tl
from triton.language.target_info import cuda_capability_geq

LIFT = tl.constexpr(64.0)
UNLIFT = tl.constexpr(1.0 / LIFT.value)
# What a product of two lifted operands is divided by.
LIFT_PRODUCT = tl.constexpr(LIFT.value**2)
UNLIFT_PRODUCT = tl.constexpr(1.0 / LIFT_PRODUCT.value)


@triton.jit
def split(value):
    """Split float32 elements into a high and a low plane; an unused low plane costs nothing."""
    lifted = value * LIFT
    high = lifted.to(tl.float16)
    low = (lifted - high.to(tl.float32)).to(tl.float16)
    return high, low


@triton.constexpr_function
def chained():
    """Say whether dots may follow one another in one accumulator.

    Not on compute capability 10.x and 11.x: Triton up to 3.7.1 has the second read what the first has not finished
    (triton-lang/triton#10821), so there each dot has an accumulator of its own.
    """
    return cuda_capability_geq(12) or not cuda_capability_geq(10)


@triton.jit
def multiply_add(left_high, left_low, right_high, right_low, total, PLANES: tl.constexpr):
    """Compute total + left @ right, in a fresh accumulator or in one for each dot; small terms first."""
    if PLANES == 2:
        product = tl.dot(left_low, right_high)
        if chained():
            product = tl.dot(left_high, right_low, product)
            return total + tl.dot(left_high, right_high, product) * UNLIFT_PRODUCT
        total += product * UNLIFT_PRODUCT
        total += tl.dot(left_high, right_low) * UNLIFT_PRODUCT
    return total + tl.dot(left_high, right_high) * UNLIFT_PRODUCT


@triton.jit
def accumulate(left_high, left_low, right_high, right_low, total, PLANES: tl.constexpr):
    """Compute total + left @ right, where the total is as :func:`accumulator` began it."""
    if PLANES == 1 and chained():
        return tl.dot(left_high, right_high, total)
    return multiply_add(left_high, left_low, right_high, right_low, total, PLANES)


@triton.jit
def accumulator(total, PLANES: tl.constexpr):
    """Begin what :func:`accumulate` adds to: a sum of one plane may stay in tensor cores, lifted twice."""
    return total * LIFT_PRODUCT if PLANES == 1 and chained() else total


@triton.jit
def accumulated(total, PLANES: tl.constexpr):
    """Finish the sum that :func:`accumulate` has made."""
    return total * UNLIFT_PRODUCT if PLANES == 1 and chained() else total


@triton.jit
def multiply(left, right, total, PLANES: tl.constexpr):
    """Compute total + left @ right of float32 matrices on chip."""
    left_high, left_low = split(left)
    right_high, right_low = split(right)
    total = accumulate(left_high, left_low, right_high, right_low, accumulator(total, PLANES), PLANES)
    return accumulated(total, PLANES)


@triton.jit
def multiply_tangent(left, d_left, right, d_right, d_total, PLANES: tl.constexpr):
    """Compute d_total + d_left @ right + left @ d_right of float32 matrices on chip."""
    left_high, left_low = split(left)
    right_high, right_low = split(right)
    d_left_high, d_left_low = split(d_left)
    d_right_high, d_right_low = split(d_right)
    d_total = accumulate(d_left_high, d_left_low, right_high, right_low, accumulator(d_total, PLANES), PLANES)
    d_total = accumulate(left_high, left_low, d_right_high, d_right_low, d_total, PLANES)
    return accumulated(d_total, PLANES)


@triton.jit
def inverse_root(square):
    """Compute 1 / sqrt(square), for scaling by it: 0 where the square is 0, NaN where it is infinite."""
    inverse = tl.div_rn(1.0, tl.sqrt_rn(square))
    inverse = tl.where(square == 0, 0.0, inverse)
    return tl.where(square == float("inf"), float("nan"), inverse)


@triton.jit
def growth_of(C, n_iter):
    """Compute what G / max |G| is divided by, so that no tangent leaves the range of float16.

    C bounds the eigenvalues of G by 1. In the null space of A the tangent of W grows by 9/4 in each iteration; above 7
    of them that takes a smaller start, (9/4)^(N - 1) / 2^8. It is no smaller than for N = 16, so that the gradient of a
    regular covariance keeps its digits for any N; that of a singular one is NaN once the tangent overflows.
    """
    growth = tl.exp2(tl.minimum(1.169925 * tl.cast(n_iter - 1, tl.float32) - 8.0, 9.5))
    return tl.maximum(tl.cast(C, tl.float32), growth)


@triton.jit
def direction(twice_g, largest, growth):
    """Divide G + G^T by its largest magnitude and by the growth; NaN stays NaN where all else is zero."""
    return tl.where(largest == 0, twice_g, tl.div_rn(twice_g, largest)) * (1.0 / growth)
