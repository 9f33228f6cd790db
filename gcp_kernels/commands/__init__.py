"""The commands of ``python -m gcp_kernels``; each module has ``add_arguments(parser)`` and ``run(args)``."""
