"""Training, reproduction and demo: an application on top of ``gcp_kernels``, run from a checkout."""
