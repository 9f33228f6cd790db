"""Classifiers for pooled vectors, and for pooled vectors together with a transformer's class token."""

import torch
from torch import Tensor, nn

# "ignore" is written last: with None, a model that has a class token gets "sum", as So-ViT does.
CLASS_TOKEN_CHOICES = ("sum", "concat", "ignore")


def linear_classifier(in_features: int, num_classes: int, like: Tensor) -> nn.Module:
    """Make a Linear layer on the device and in the dtype of ``like``; for no classes the identity, as in timm."""
    if num_classes == 0:
        return nn.Identity()
    return nn.Linear(in_features, num_classes, device=like.device, dtype=like.dtype)


def joined_features(class_features: int, pooled_features: int, choice: str) -> int:
    """Return the elements of one sample after :func:`join`."""
    return pooled_features if choice == "ignore" else class_features + pooled_features


def join(class_token: Tensor, pooled: Tensor, choice: str) -> Tensor:
    """Join what the classifier is given: (B, C) class tokens before (B, D) pooled tokens, or the latter alone."""
    return pooled if choice == "ignore" else torch.cat((class_token, pooled), dim=1)


class SummedClassifier(nn.Module):
    """The class token and the pooled tokens, each with a linear classifier of its own, summed (So-ViT).

    Both come in one tensor, the class token first, so that whatever a model does before its classifier (dropout, or
    returning what it would classify) happens to both. One Linear layer on that tensor could compute the same. It would
    be initialised by the number of all inputs, and each of the two is by the number of its own, so they train
    differently.

    Shape:
        - Input: (B, class_features + pooled_features).
        - Output: (B, num_classes).
    """

    def __init__(
        self,
        class_features: int,
        pooled_features: int,
        num_classes: int,
        device: torch.device | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.class_features = class_features
        self.pooled_features = pooled_features
        self.out_features = num_classes
        self.class_token = nn.Linear(class_features, num_classes, device=device, dtype=dtype)
        self.pooled = nn.Linear(pooled_features, num_classes, device=device, dtype=dtype)

    def forward(self, x: Tensor) -> Tensor:
        """Return the sum of the two classifiers' outputs."""
        class_token, pooled = x.split((self.class_features, self.pooled_features), dim=1)
        return self.class_token(class_token) + self.pooled(pooled)


def token_classifier(
    class_features: int, pooled_features: int, num_classes: int, choice: str, like: Tensor
) -> nn.Module:
    """Make the classifier for what :func:`join` gives; for no classes the identity, as in timm."""
    if choice == "sum" and num_classes:
        return SummedClassifier(class_features, pooled_features, num_classes, like.device, like.dtype)
    return linear_classifier(joined_features(class_features, pooled_features, choice), num_classes, like)
