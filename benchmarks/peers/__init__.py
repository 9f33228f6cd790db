"""The implementations that the pooling is measured against, and the truth that all of them are held to."""
