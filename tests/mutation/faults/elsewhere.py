"""Faults of what leaves the package, or comes from other code: exported programs, and the names of copies."""

from ..fault import Fault

ELSEWHERE = (
    Fault(
        "export: a coefficient of the last two iterations",
        "export",
        "gcp_kernels/ops/standard_operators.py",
        "27 / 16 * v",
        "25 / 16 * v",
        ("test_decompositions.py",),
    ),
    Fault(
        "export: programs iterate on the channels whatever the sizes",
        "export",
        "gcp_kernels/ops/isqrt_pool/decomposition.py",
        "_on_positions if fixed and side_of(c, m) == POSITIONS else _on_channels",
        "_on_channels",
        ("test_decompositions.py",),
        "smaller_side",
    ),
    Fault(
        "export: tracers with open sizes run the decomposition",
        "export",
        "gcp_kernels/ops/decompositions.py",
        '    register_decomposition(operator, type="meta")(fake)\n',
        "",
        ("test_decompositions.py",),
        "open_sizes",
    ),
    Fault(
        "export: a backward pass is left in the program",
        "export",
        "gcp_kernels/export.py",
        "    if left:\n",
        "    if not left:\n",
        ("test_decompositions.py",),
        "refused_by_name",
    ),
    Fault(
        "compat: the step that a subclass replaces is not called",
        "compat",
        "gcp_kernels/compat/mpncov.py",
        "step in vars(layer) or getattr(type(layer), step) is not getattr(MPNCOV, step)",
        "step in vars(layer)",
        ("test_mpncov_copies.py",),
    ),
    Fault(
        "compat: weights are reordered the wrong way round",
        "compat",
        "gcp_kernels/compat/mpncov.py",
        "weight.index_select(-1, places.argsort())",
        "weight.index_select(-1, places)",
        ("test_mpncov_copies.py",),
    ),
    Fault(
        "compat: the root is taken where none is wanted",
        "compat",
        "gcp_kernels/compat/mpncov.py",
        "self.iterNum if self.is_sqrt else None",
        "self.iterNum",
        ("test_mpncov_copies.py",),
    ),
)
