"""Layers that torch.fx takes as a whole, as it takes those of torch.nn."""

from typing import Any

from torch import fx, nn


class Leaf(nn.Module):
    """A layer that any trace of torch.fx records as one ``call_module`` node; no ``torch.fx.wrap`` is needed.

    The graph calls the module itself: its hooks run when the graph does, and ``train()`` and ``eval()`` still change
    what it computes. By itself torch.fx does this only for modules of ``torch.nn``.
    """

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Run the layer, or record that it is to run."""
        tracer = _tracer_of(*args, *kwargs.values())
        if tracer is None:
            return super().__call__(*args, **kwargs)

        def record(*args: Any, **kwargs: Any) -> Any:
            if _tracer_of(*args, *kwargs.values()) is None:  # a tracer that also computes, on tensors of its own
                return nn.Module.__call__(self, *args, **kwargs)
            return tracer.create_proxy("call_module", tracer.path_of_module(self), args, kwargs)

        return tracer.call_module(self, record, args, kwargs)


def _tracer_of(*given: object) -> fx.Tracer | None:
    """Return the tracer of the first argument that is a proxy of a trace, or ``None``."""
    tracers = (argument.tracer for argument in given if isinstance(argument, fx.Proxy))
    return next((tracer for tracer in tracers if isinstance(tracer, fx.Tracer)), None)
