"""Time and memory of the pooling on this machine, beside its peers."""
