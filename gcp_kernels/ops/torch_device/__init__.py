"""What operations share in plain PyTorch: slices of a batch, the iteration, index maps, precision of products."""
