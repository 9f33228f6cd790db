"""A network pretrained on ImageNet, frozen and fine-tuned behind average pooling, GCP and DropCov."""
