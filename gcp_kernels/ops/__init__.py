"""The operations, each in a room of its own: public function, ``torch.library`` operator, and what every backend runs.

The operators are ``torch.ops.gcp_kernels.*``. Forward and backward are separate ones, so that compilers see both. Saved
for backward are the inputs, the centre of each channel (its mean less its first position) and the trace; on the CPU,
where time matters more than memory, the iterates too. Functions of the eigenvalues keep those and the eigenvectors.

What rooms share on a backend is in ``torch_device``, ``triton_device`` and ``cuda_device``.
"""
