"""What the demo shows beside its training: the time of one pass of the pooling, and the picture of the curves."""
