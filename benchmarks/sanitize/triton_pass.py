"""A pass of the Triton kernels in a configuration that the caller gives, on numbers, and what it is held to."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from gcp_kernels import reference

from ..cases import Case
from ..codegen.triton_kernels import KernelCase, Tensors, launch_on
from ..peers.truth import CHUNK, error_limit, worst_sample_error


class Pass:
    """The tensors of a case, filled: rectified normal features, or their covariances where a matrix is given."""

    def __init__(self, case: KernelCase, device: torch.device) -> None:
        self.case = case
        self.tensors = Tensors.of(case, device)
        generator = torch.Generator(device).manual_seed(case.c)
        source, scale = self.tensors.source, self.tensors.scale
        # As many positions as make a matrix that is given regular.
        positions = 2 * case.c if case.source == "matrix" else case.m
        numbers = torch.randn(case.b, case.c, positions, generator=generator, device=device).relu_()
        source.copy_(reference.covariance_pool(numbers) if case.source == "matrix" else numbers)
        if scale is not None:
            scale.copy_(torch.rand(scale.shape, generator=generator, device=device) + 0.5)
        if case.backward:
            self.tensors.pooled.copy_(torch.randn(self.tensors.pooled.shape, generator=generator, device=device))
            self._fill_statistics()

    def _fill_statistics(self) -> None:
        """Fill in what a forward pass leaves: the centre, which is the mean less the first position, and the trace."""
        exact = self.tensors.source.double()
        if self.case.source == "matrix":
            self.tensors.trace.copy_(exact.diagonal(dim1=1, dim2=2).sum(1))
        else:
            self.tensors.centre.copy_(exact.mean(2) - exact[:, :, 0])
            self.tensors.trace.copy_(exact.var(2, correction=0).sum(1))

    @property
    def nbytes(self) -> int:
        """Of what must move: the source, the pooled matrices and, backward, the gradient."""
        moved = self.tensors.source.nbytes + self.tensors.pooled.nbytes
        return moved + (self.tensors.grad_source.nbytes if self.case.backward else 0)

    @property
    def filled(self) -> list[Tensor]:
        """What the pass computes."""
        if not self.case.backward:
            return [self.tensors.pooled]
        return [self.tensors.grad_source, *([] if self.tensors.grad_scale is None else [self.tensors.grad_scale])]

    def call(self, case: KernelCase) -> Callable[[], None]:
        """Make the launches of ``case``, which differs from the pass's own only in its configuration."""
        if replace(case, choice=self.case.choice) != self.case:
            raise ValueError(f"the pass was made for {self.case}, not for {case}")
        return lambda: launch_on(case, self.tensors)

    def error(self, case: KernelCase) -> float:
        """Measure the relative error of the worst sample against float64; infinite where an element is not written."""
        for tensor in self.filled:
            tensor.fill_(math.nan)
        self.call(case)()
        return max(worst_sample_error(found, exact) for found, exact in zip(self.filled, self.exact, strict=True))

    def limit(self) -> float:
        """Give the error beyond which a pass is wrong, as in the benchmark."""
        case = self.case
        dtype = str(case.dtype).removeprefix("torch.")
        return error_limit(Case(case.b, case.c, case.m, 1, n_iter=case.n_iter, dtype=dtype, precision=case.precision))

    @functools.cached_property
    def exact(self) -> list[Tensor]:
        """What ``filled`` should be: the reference in float64, a few samples at a time."""
        parts = [self._exact(slice(start, start + CHUNK)) for start in range(0, self.case.b, CHUNK)]
        return [torch.cat(part) for part in zip(*parts, strict=True)]

    def _exact(self, samples: slice) -> list[Tensor]:
        leaves = [self.tensors.source[samples].double().requires_grad_()]
        if self.tensors.scale is not None:
            leaves.append(self.tensors.scale[samples].double().requires_grad_())
        matrix = self._reference(leaves)
        value = reference.triu_vec(matrix) if self.case.triu else matrix
        if not self.case.backward:
            return [value.detach()]
        return list(torch.autograd.grad(value, leaves, self.tensors.pooled[samples].double()))

    def _reference(self, leaves: list[Tensor]) -> Tensor:
        if self.case.source == "matrix":
            return reference.newton_schulz_sqrt(leaves[0], self.case.n_iter)
        if self.case.form == "covariance":
            return reference.covariance_pool(*leaves)
        return reference.isqrt_pool(leaves[0], self.case.n_iter)
