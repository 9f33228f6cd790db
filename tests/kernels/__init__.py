"""Triton and CUDA kernels: interpreted, emulated, compiled, and on a GPU."""
