"""The whole suite on one GPU, and how work for a borrowed one is prepared on a machine without."""
