"""What compilers make of the kernels, read and modelled without a GPU: static tables, launch overhead, cost model."""
