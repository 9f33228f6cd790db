"""Speed and memory of the pooling on this machine: ``python -m benchmarks`` from a checkout."""
