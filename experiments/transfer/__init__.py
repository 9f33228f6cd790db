"""Transfer: trunks trained as classifiers with each pooling, fine-tuned to detect and to segment digits in scenes."""
