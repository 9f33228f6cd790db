"""Programs of ``torch.export`` that leave this package behind: for AOTInductor, for C++, for other runtimes.

An exported program names the operators ``torch.ops.gcp_kernels.*``, which exist where gcp_kernels is imported. For
anywhere else they are replaced, by :func:`decompose` or by :func:`use_extension`. ``torch.onnx.export`` of a network
decomposes them by itself. docs/deployment.md has a script for each way.
"""

from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from torch import Tensor
from torch._ops import OpOverload
from torch.export import ExportedProgram

from .ops.covariance_pool.cuda import covariance_pool_inference
from .ops.cuda_device import backend as cuda
from .ops.cuda_device.extension import require_loaded
from .ops.cuda_device.fakes import register_fakes
from .ops.decompositions import TABLE, in_place_of
from .ops.isqrt_pool.cuda import isqrt_pool_inference
from .ops.operators import OPERATORS
from .ops.triangle import cuda as triangle

__all__ = ["decompose", "extension_library", "use_extension"]


def decompose(program: ExportedProgram) -> ExportedProgram:
    """Replace the operators of this package in an exported program by operators of torch.

    The result runs wherever torch does, without gcp_kernels: loaded by ``torch.export.load``, or compiled by
    ``torch._inductor.aoti_compile_and_package``. The iteration is on the smaller side where the program fixes the
    numbers of channels and positions, else on that of the channels, which keeps float32's errors below 1e-5 for up to
    10 iterations where positions are fewer than channels. ``precision`` and ``backend`` mean nothing any more: products
    of float32 follow the settings of torch where the program runs, and half precision is computed in float32 in
    between, as before. Nothing is fused by hand: what is fused is the compiler's choice.

    Args:
        program: of ``torch.export.export``, of a network in evaluation. It is not changed.

    Returns:
        A program of the same inputs, outputs and open sizes.

    Raises:
        TypeError: ``program`` is no exported program.
        ValueError: it has a backward pass of this package.

    Example:
        >>> import torch, gcp_kernels
        >>> layer, x = gcp_kernels.nn.GCP(8).eval(), torch.randn(2, 8, 7, 7)
        >>> program = gcp_kernels.export.decompose(torch.export.export(layer, (x,)))
        >>> torch.allclose(program.module()(x), layer(x), atol=1e-5)
        True
    """
    _check(program)
    return _replace(program, dict(TABLE))


def use_extension(program: ExportedProgram) -> ExportedProgram:
    """Replace the operators of this package in an exported program by those of the compiled CUDA extension.

    What is compiled of the result by ``torch._inductor.aoti_compile_and_package`` calls the fused kernels, in Python
    or in C++, wherever :func:`extension_library` has been loaded first (``torch.ops.load_library``, or ``dlopen``).
    What the extension has no kernel for at all is decomposed, as :func:`decompose` does it. No program that calls these
    kernels has run on a GPU yet.

    Args:
        program: of ``torch.export.export``, of a network in evaluation on a GPU. The batch may be open, the numbers of
            channels and positions may not. It is not changed.

    Returns:
        A program of the same inputs and outputs.

    Raises:
        TypeError: ``program`` is no exported program.
        ValueError: it has a backward pass of this package, or leaves channels or positions of pooled features open.
        RuntimeError: the extension is not built, or cannot run one of the calls, with the reason.
    """
    _check(program)
    require_loaded("the CUDA extension cannot be used in a program")
    register_fakes()
    table = {one: _by_extension(one) if _name(one) in _KERNELS else TABLE[one] for one in TABLE}
    return _replace(program, table)


def extension_library() -> Path:
    """Return the path of the shared library that registers the operators of the CUDA extension.

    It wants torch's libraries in the process, and no Python: a program in C++ that is linked with libtorch opens it
    with ``dlopen``.

    Raises:
        RuntimeError: the extension is not built or does not load, with the reason.
    """
    require_loaded("there is no library of operators")
    spec = find_spec("._C", __package__)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin)


def _name(operator: OpOverload) -> str:
    return operator.name().split("::")[1]


# What the extension runs instead of an operation, from the arguments that it names.
_KERNELS: dict[str, Callable[..., Tensor]] = {
    "isqrt_pool": isqrt_pool_inference,
    "covariance_pool": covariance_pool_inference,
    "triu_vec": triangle.triu_vec,
    "triu_unvec": triangle.triu_unvec,
}


def _by_extension(operator: OpOverload) -> Callable[..., Any]:
    """Make the function that calls the extension instead of an operator, with the operator's arguments."""
    operation = _name(operator)
    call = in_place_of(operator, _KERNELS[operation])
    parameters = [argument.name for argument in operator._schema.arguments]

    def call_where_possible(*args: Any) -> Any:
        tensor, named = args[0], dict(zip(parameters, args, strict=True))
        sizes = tuple(tensor.shape[1:])
        if not all(isinstance(size, int) for size in sizes):
            raise ValueError(
                f"the CUDA extension takes {operation} of fixed channels and positions, and this program leaves them "
                f"open, {sizes}; fix the size of the images, or take gcp_kernels.export.decompose"
            )
        reason = cuda.why_not(operation, tensor, *([named["precision"]] if "precision" in named else []))
        if reason is not None:
            raise RuntimeError(
                f"the CUDA extension cannot run {operation} in this program: {reason}; gcp_kernels.export.decompose "
                "takes operators of torch"
            )
        return call(*args)

    return call_where_possible


def _check(program: object) -> None:
    if not isinstance(program, ExportedProgram):
        raise TypeError(f"program must be a torch.export.ExportedProgram, got {type(program).__name__}")


def _replace(program: ExportedProgram, table: dict[OpOverload, Callable[..., Any]]) -> ExportedProgram:
    replaced = program.run_decompositions(table)
    graphs = [module.graph for module in replaced.graph_module.modules() if hasattr(module, "graph")]
    called = {node.target for graph in graphs for node in graph.nodes if node.op == "call_function"}
    left = [operator.name() for operator in OPERATORS if operator in called]
    if left:
        raise ValueError(
            f"program calls {', '.join(left)}, which only forward passes can do without; export the network in "
            "evaluation, and not its gradient"
        )
    return replaced
