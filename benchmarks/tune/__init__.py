"""The search for launch configurations of the Triton kernels."""
