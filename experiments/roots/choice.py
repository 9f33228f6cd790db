"""One learning rate for all roots: that with which the published root knows most validation images."""

from collections.abc import Sequence

from ..reproduction.choice import Rates, validation_accuracy
from ..reproduction.runs import Run
from ..training import NonFiniteLossError
from .roots import PUBLISHED


def common_rate(runs: Sequence[Run]) -> Rates:
    """Give every root the rate of the highest mean validation accuracy of the published one, by network and root.

    Curvature and smoothness at the end of a training depend on its rate: with rates of their own, roots would differ in
    them by that alone. Of equal rates that with the lower loss is taken; one with which any root diverged is none.

    Raises:
        NonFiniteLossError: with every rate some root diverged.
    """
    accuracy = validation_accuracy(runs)
    roots = {(run.network, run.pool) for run in runs}
    (network,) = {network for network, _ in roots}
    usable = [
        (accuracy[network, PUBLISHED, rate][0], -accuracy[network, PUBLISHED, rate][1], rate)
        for rate in {rate for _, _, rate in accuracy}
        if all((*root, rate) in accuracy for root in roots)
    ]
    if not usable:
        raise NonFiniteLossError(f"{network}: with every rate the training of some root diverged")
    return dict.fromkeys(roots, max(usable)[2])
