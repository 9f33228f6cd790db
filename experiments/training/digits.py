"""Real handwritten digits, small enough for a CPU: the scans that scikit-learn ships."""

from dataclasses import dataclass

import torch

CLASSES = 10
# Of the 449 training images 29 are left for the last step of an epoch. In batches of 32 that step has a single image,
# which costs average pooling half a point of accuracy under SGD.
BATCH_SIZE = 30


@dataclass(frozen=True)
class DigitsSplit:
    """Images (n, 1, 8, 8) in [0, 1] as float32, labels (n,) as int64; one split for every seed."""

    train_images: torch.Tensor
    train_labels: torch.Tensor
    test_images: torch.Tensor
    test_labels: torch.Tensor


def load_digits_split(device: torch.device) -> DigitsSplit:
    """Load scikit-learn's 1797 scanned digits: a quarter to train on, the rest to test, classes in equal shares.

    With few training images the poolings differ by more than the 0.07 points that one of the 1348 test images is.
    """
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images, labels = digits.images / 16.0, digits.target
    parts = train_test_split(images, labels, test_size=0.75, stratify=labels, random_state=0)
    train_images, test_images = (
        torch.as_tensor(part, dtype=torch.float32).unsqueeze(1).to(device) for part in parts[:2]
    )
    train_labels, test_labels = (torch.as_tensor(part, dtype=torch.int64).to(device) for part in parts[2:])
    return DigitsSplit(train_images, train_labels, test_images, test_labels)
