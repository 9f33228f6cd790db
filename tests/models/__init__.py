"""Whole networks: those that are ready, those that are converted, and what wraps them."""
