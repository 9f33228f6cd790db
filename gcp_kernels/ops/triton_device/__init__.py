"""What operations share in Triton: device functions, launch choices, architectures."""
