"""Commands, benchmarks, builds, and how the checkout itself is kept: layers, documents, promises."""
