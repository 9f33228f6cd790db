"""Real handwritten digits, small enough for a CPU: the scans that scikit-learn ships."""

import torch

from gcp_kernels.extras import how_to_install

from .parts import ImageData, stratified

CLASSES, SIZE = 10, 8
VALIDATION, TEST = 449, 899
# Of the 449 training images 29 are left for the last step of an epoch. In batches of 32 that step has a single image,
# which costs average pooling half a point of accuracy under SGD.
BATCH_SIZE = 30


def load_digits_data(device: torch.device) -> ImageData:
    """Load the 1797 scanned digits of 8x8 pixels: a quarter to train on, a quarter to choose by, half to test.

    With few training images the poolings differ by more than the 0.11 points that one of the 899 test images is.

    Raises:
        ImportError: scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ModuleNotFoundError as error:
        raise ImportError(f"digits are what scikit-learn ships, which is missing: {how_to_install('demo')}") from error

    digits = load_digits()
    train, validation, test = stratified(digits.images / 16.0, digits.target, VALIDATION, TEST, device)
    return ImageData(
        name="digits",
        train=train,
        validation=validation,
        test=test,
        classes=tuple(str(digit) for digit in range(CLASSES)),
        source="E. Alpaydin and C. Kaynak, Optical Recognition of Handwritten Digits (UCI, 1998), its test part, as "
        "scikit-learn ships it: 1797 scans of 8x8, dealt at random, so that a writer may be in all parts",
        licence="CC BY 4.0",
    )
