"""The time of the CUDA kernels from their machine code: a walk through it, and a model of a multiprocessor."""
