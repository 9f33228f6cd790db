"""gcp_kernels.analysis against losses, spectra and networks whose every number is known."""
