"""Does a better square root of the covariance train better? Newton-Schulz, the exact root, and optimal steps."""
