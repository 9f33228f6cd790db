"""What operations share in plain PyTorch: chunks of a batch, the iteration, index maps, precision of products."""
