"""Signed square root and L2 normalisation of pooled vectors."""

from torch import Tensor

from gcp_kernels import reference
from gcp_kernels.validation import check_floating

from ..arguments import run_reference
from ..override import overridable


@overridable
def elementwise_power(v: Tensor) -> Tensor:
    """Take sign(s) sqrt(|s| + 1e-8) of each element s, then divide the vector by its L2 norm.

    This is the normalisation of improved bilinear pooling (Lin and Maji, BMVC 2017), for pooled vectors. It is computed
    in float32 at least, where 1e-8 is not zero. An element of zero stays zero, with zero gradient; so does a vector of
    zeros.

    Args:
        v: (..., D), float16, bfloat16, float32 or float64, any strides.

    Returns:
        (..., D), in the dtype of ``v``, each vector of length 1 or 0.

    Raises:
        TypeError: ``v`` is not a floating-point tensor.
        ValueError: ``v`` has no dimension.

    Example:
        >>> import torch, gcp_kernels
        >>> gcp_kernels.elementwise_power(torch.tensor([9.0, 0.0, -16.0]))
        tensor([ 0.6000,  0.0000, -0.8000])
    """
    check_floating("v", v)
    if v.dim() == 0:
        raise ValueError("v must have shape (..., D), got a tensor without dimensions")
    return run_reference(reference.elementwise_power, v)
