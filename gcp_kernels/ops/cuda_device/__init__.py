"""What operations share of the CUDA C++ extension: how it is loaded, and what it can run."""
