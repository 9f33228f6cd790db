"""The Triton kernels: device functions shared by all of them, and one module per form of launch."""
