"""The layers of the kernel: forward passes that ``kernels.kernelize`` puts into the modules of a model.

It wants them without state. What a forward reads, the module has that it is put into.
"""

from torch import Tensor, nn

from .gcp_kernels import fused_gcp

__all__ = ["GCP"]


class GCP(nn.Module):
    """iSQRT-COV pooling of (B, C, H, W) or (B, C, N) into (B, C(C+1)/2), as ``fused_gcp`` does (CVPR 2018).

    The module whose forward this replaces has the number of Newton-Schulz iterations as its attribute ``n_iter``.
    """

    can_torch_compile = True
    has_backward = True

    n_iter: int

    def forward(self, x: Tensor) -> Tensor:
        return fused_gcp(x, n_iter=self.n_iter)
