"""The normalisations that a pooling layer can apply, one object each, and the option that belongs to each.

A new one needs its entry in :data:`NORMALIZATIONS` and a line in the docstring of :class:`gcp_kernels.nn.GCP`; checks,
defaults, ``print`` and dispatch read the entry.
"""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

from torch import Tensor

from ..functional import (
    covariance_pool,
    elementwise_power,
    fused_gcp,
    matrix_log,
    matrix_power,
    singular_value_power,
)
from ..ops.override import overridable
from ..ops.spectral_pool import log_pool, power_pool
from ..precision import accumulation_dtype
from ..validation import check_at_least, check_choice, check_positive


def _default(function: Callable[..., Tensor], name: str) -> float:
    """Read the default of an argument, so that a layer's default is that of the function which it calls."""
    default: float = inspect.signature(function).parameters[name].default
    return default


@dataclass(frozen=True)
class Option:
    """A number that a normalisation takes.

    Attributes:
        name: of the argument of the function, of the layer, and of the attribute where the layer keeps it.
        default: what the layer takes where none is given.
        check: called with name and value; raises ``TypeError`` or ``ValueError`` for one that is not allowed.
        not_given: the default of the layer's argument. Any other value is refused by layers whose normalisation does
            not have this option.
    """

    name: str
    default: float
    check: Callable[[str, float], None]
    not_given: float | None = None


@dataclass(frozen=True)
class Normalization:
    """A normalisation of the covariance (B, C, C) of features.

    Attributes:
        name: what users write, ``normalization="power"``.
        pool: from features (B, C, *spatial), any of the floating dtypes, to their normalised covariance in the same
            dtype. Its keywords are ``channel_dim``, ``output``, ``precision`` and ``backend`` of
            :func:`gcp_kernels.fused_gcp`, and the option.
        option: the only one that belongs to it, or ``None``.
    """

    name: str
    pool: Callable[..., Tensor]
    option: Option | None = None


@dataclass(frozen=True)
class HeadNormalization:
    """A normalisation of the cross-covariance (B, h, w, w) of several heads.

    Attributes:
        name: what users write.
        normalize: from cross-covariance, learned start vectors (h, w) and the option to the normalised
            cross-covariance; ``None`` for one that leaves it as it is, and needs no vectors.
        option: the only one that belongs to it, or ``None``.
    """

    name: str
    normalize: Callable[..., Tensor] | None = None
    option: Option | None = None


def _normalized_elements(x: Tensor, **pooling: int | str | None) -> Tensor:
    """Pool features, and take signed roots of the elements of the pooled vector, in float32 at least."""
    cov = covariance_pool(x.to(accumulation_dtype(x.dtype)), **pooling)  # type: ignore[arg-type]
    return elementwise_power(cov.flatten(1)).view_as(cov).to(x.dtype)


PUBLISHED_ITERATIONS = int(_default(fused_gcp, "n_iter"))
N_ITER = Option("n_iter", PUBLISHED_ITERATIONS, partial(check_at_least, least=1), not_given=PUBLISHED_ITERATIONS)
ALPHA = Option("alpha", _default(matrix_power, "alpha"), check_positive)
EPS = Option("eps", _default(matrix_log, "eps"), check_positive)
HEAD_ALPHA = Option("alpha", _default(singular_value_power, "alpha"), partial(check_positive, most=1))

NORMALIZATIONS = {
    one.name: one
    for one in (
        Normalization("isqrt", fused_gcp, N_ITER),
        Normalization("none", covariance_pool),
        Normalization("power", power_pool, ALPHA),
        Normalization("log", log_pool, EPS),
        Normalization("elementwise", _normalized_elements),
    )
}
HEAD_NORMALIZATIONS = {
    one.name: one for one in (HeadNormalization("power", singular_value_power, HEAD_ALPHA), HeadNormalization("none"))
}


def options_of(
    normalizations: Mapping[str, Normalization] | Mapping[str, HeadNormalization],
    normalization: str,
    **given: float | None,
) -> dict[str, float]:
    """Return the value of every option in ``given``, by name: the one given or else the default.

    Raises:
        TypeError: a value is of the wrong type.
        ValueError: the normalisation is none of ``normalizations``; a value is out of its range; or it is given for a
            normalisation that does not have this option.
    """
    check_choice("normalization", normalization, tuple(normalizations))
    owners: dict[Option, list[str]] = {}
    for one in normalizations.values():
        if one.option is not None:
            owners.setdefault(one.option, []).append(one.name)
    values = {}
    for option, names in owners.items():
        value = given[option.name]
        if value is None and option.not_given is None:
            values[option.name] = option.default
            continue
        option.check(option.name, value)  # type: ignore[arg-type]  # which is what the check finds out
        assert value is not None
        if value != option.not_given and normalization not in names:
            raise ValueError(
                f"{option.name} is an option of normalization={' or '.join(map(repr, names))}, got "
                f"{option.name}={value} with normalization={normalization!r}"
            )
        values[option.name] = value
    return values


@overridable
def pool_and_normalize(
    x: Tensor,
    normalization: str,
    options: dict[str, float],
    *,
    channel_dim: int,
    output: str,
    precision: str | None,
    backend: str | None,
) -> Tensor:
    """Pool features (B, C, *spatial) to their normalised covariance, (B, C(C+1)/2) or (B, C, C), in the dtype of ``x``.

    ``options`` are those of the normalisation. It goes by its name, and not as an object, for a trace of torch.fx to
    hold it.
    """
    pool = NORMALIZATIONS[normalization].pool
    return pool(x, channel_dim=channel_dim, output=output, precision=precision, backend=backend, **options)
