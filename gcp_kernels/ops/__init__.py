"""The operations. Each has a room: a folder with its public function, its operator and what each backend runs for it.

The operators are ``torch.ops.gcp_kernels.*``. Forward and backward are separate operators, so that compilers see both.
The forward pass saves its inputs, the centre of each channel (its mean less its first position) and the trace for the
backward pass. On the CPU, where time matters more than memory, it saves the iterates too. Functions of the eigenvalues
save the eigenvalues and the eigenvectors.

``torch_device``, ``triton_device`` and ``cuda_device`` hold what the rooms share on a backend. docs/architecture.md
follows a call through these files; docs/glossary.md explains the words.
"""
