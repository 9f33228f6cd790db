"""What operations share of the CUDA C++ extension: loading it, and what it can run."""
