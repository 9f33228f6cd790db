"""Layers of gcp_kernels.nn, in the conventions of torch.nn."""
