"""The odd cubics a x - b x^3 whose composition comes closest to 1 on an interval: the steps of an optimal iteration.

Every step of the Newton-Schulz iteration takes x to (3 x - x^3) / 2. With other coefficients in every step the same
number of matrix products gives the smallest possible maximum of |1 - x| over all x of an interval: the cubic of each
step is the best one for the interval that the steps before it map to. That this greedy choice is the best of all
compositions is shown by Amsel, Persson, Musco and Gower, "The Polar Express: Optimal Matrix Sign Methods and Their
Application to the Muon Algorithm", 2025, arXiv 2505.16932; the same cubics are in Grishina, Smirnov and Rakhuba,
"Accelerating Newton-Schulz Iteration for Orthogonalization via Chebyshev-type Polynomials", 2025, arXiv 2506.10935.
The formula below is derived here.
"""

from dataclasses import dataclass

from gcp_kernels.validation import check_at_least


@dataclass(frozen=True)
class Cubic:
    """The polynomial ``a x - b x^3``, and the largest |1 - it| on the interval that it is for."""

    a: float
    b: float
    error: float

    def __call__(self, x: float) -> float:
        """Return the value at ``x``."""
        return x * (self.a - self.b * x * x)


def best_cubic(low: float, high: float) -> Cubic:
    """Return the odd cubic with the smallest maximum of |1 - a x + b x^3| over ``low <= x <= high``.

    It is the one whose error has the same size and alternating sign at three points: both ends of the interval, where
    the cubic is 1 - E, and its maximum between them, at x = sqrt(a / (3 b)), where it is 1 + E. Equal values at the
    ends give a = b s with s = low^2 + low high + high^2, so that the maximum is 2 b (s / 3)^(3/2) at sqrt(s / 3), and
    the value at the ends is b low high (low + high). The two add up to 2, which gives b.

    Raises:
        ValueError: not 0 < ``low`` < ``high``.
    """
    if not 0 < low < high:
        raise ValueError(f"an interval needs 0 < low < high, got {low} and {high}")
    s = low * low + low * high + high * high
    at_ends, at_maximum = low * high * (low + high), 2 * (s / 3) ** 1.5
    b = 2 / (at_ends + at_maximum)
    # Not 1 - b at_ends, which cancels where the interval is short; never below the rounding of float64, for the next
    # interval must not be empty.
    return Cubic(b * s, b, max((at_maximum - at_ends) / (at_maximum + at_ends), 1e-15))


def optimal_cubics(smallest: float, steps: int) -> tuple[Cubic, ...]:
    """Return the steps for values between ``smallest`` and 1; the last one's ``error`` is that of all of them.

    Raises:
        TypeError, ValueError: ``smallest`` is not between 0 and 1, or ``steps`` is no integer above 0.
    """
    check_at_least("steps", steps, 1)
    low, high = smallest, 1.0
    cubics = []
    for _ in range(steps):
        cubics.append(best_cubic(low, high))
        low, high = 1 - cubics[-1].error, 1 + cubics[-1].error
    return tuple(cubics)
