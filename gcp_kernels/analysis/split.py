"""split: a network cut in two behind one of its modules."""

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, fx, nn

from ..wrappers import unwrapped, without_wrappers
from .state import RandomState


def split(model: nn.Module, after: str | nn.Module) -> tuple[nn.Module, nn.Module]:
    """Cut ``model`` in two behind the module ``after``, so that ``model(x)`` is ``rest(stem(x))``.

    Both halves run modules and parameters of ``model`` itself, as they are at the time of the call: what training
    changes, and ``train()`` or ``eval()`` of the model, holds for them at once. ``stem`` computes nothing behind the
    cut and ``rest`` nothing before it.

    Only the ``forward`` of the modules that contain ``after`` is looked into, with :mod:`torch.fx`; ``nn.Sequential``,
    and ResNets and other networks of torchvision and timm that pass one tensor from stage to stage, are cut in this
    way, all other modules may do whatever they like. What cannot be cut is refused; then two callables of your own
    serve as well. Forward hooks of the containing modules that depend on values do not run.

    Args:
        model: a network with one input. Not changed. Of one in ``torch.compile``, DataParallel, DistributedDataParallel
            or AveragedModel what is inside is cut, and runs without them.
        after: the last module of the stem, itself or its name in ``model.named_modules()``, "layer1" or "features.0".

    Returns:
        ``stem`` and ``rest``, modules that take one tensor. Each holds the whole model: its ``parameters()`` are all of
        the model's, its ``eval()`` is the model's.

    Raises:
        TypeError: ``model`` is no module, or sharded by FullyShardedDataParallel; ``after`` is neither a module nor a
            name.
        ValueError: ``after`` is not in the model; it is called never, or more than once; the part behind it needs more
            of what comes before than its output (a shortcut around it, the images' size); a containing module's
            forward depends on values or draws random numbers, so that it cannot be traced.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> from gcp_kernels.analysis import split
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 2))
        >>> stem, rest = split(model, after="1")
        >>> x = torch.randn(3, 4)
        >>> torch.equal(rest(stem(x)), model(x))
        True
    """
    model = unwrapped(model)
    name = _name_in(model, after)
    cut = _Cut(model, name)
    cut.graphs()  # what cannot be cut fails here and not in the first call
    return _Half(cut, 0), _Half(cut, 1)


def _name_in(model: nn.Module, after: str | nn.Module) -> str:
    if not isinstance(after, (str, nn.Module)):
        raise TypeError(f"after must be a module or its name, got {after!r} of type {type(after).__name__}")
    modules = dict(model.named_modules(remove_duplicate=False))
    module = modules.get(after, modules.get(without_wrappers(after))) if isinstance(after, str) else unwrapped(after)
    # A module registered twice goes by its first name, as in the traced graph.
    names = [name for name, other in model.named_modules() if other is module and name]
    if not names:
        allowed = ", ".join(repr(name) for name, _ in model.named_modules() if name)
        given = repr(after) if isinstance(after, str) else f"a {type(after).__name__}"
        raise ValueError(f"after must be a module inside the model, not the model itself: {allowed}; got {given}")
    return names[0]


class _OneInput(nn.Module):
    """Calls the model with one argument, so that the others have their defaults when it is traced."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        return self.model(x)


class _AncestorTracer(fx.Tracer):
    """Traces the forward of those modules that contain the one named, and of no others."""

    # Buffers are read when the graph runs, not when it is traced, and what is done to them in place is done then.
    proxy_buffer_attributes = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self._name = name

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return not self._name.startswith(module_qualified_name + ".")

    def call_module(
        self, m: nn.Module, forward: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        # Compiled code, here of ``Module.compile``, cannot be traced; the module is, as it was written.
        return super().call_module(m, m._call_impl, args, kwargs)


class _Cut:
    """The two graphs of a model, traced again for each combination of the traced modules' training flags."""

    def __init__(self, model: nn.Module, name: str) -> None:
        self.root = _OneInput(model)
        self.name = name
        parts = name.split(".")
        self._ancestors = [model.get_submodule(".".join(parts[:depth])) for depth in range(len(parts))]
        self._graphs: dict[tuple[bool, ...], tuple[fx.Graph, fx.Graph]] = {}

    def graphs(self) -> tuple[fx.Graph, fx.Graph]:
        """Return stem and rest for the training flags that the model has now."""
        training = tuple(module.training for module in self._ancestors)
        if training not in self._graphs:
            graph = _traced(self.root, self.name)
            cut = _only_call(graph, self.name)
            self._graphs[training] = _stem(graph, cut), _rest(graph, cut, self.name)
        return self._graphs[training]


class _Half(nn.Module):
    """Stem or rest of a model."""

    def __init__(self, cut: _Cut, index: int) -> None:
        super().__init__()
        self.model = cut.root.model
        self._cut = [cut]  # in a list, for it is no submodule
        self._index = index

    def forward(self, x: Tensor) -> Tensor:
        cut = self._cut[0]
        return fx.Interpreter(cut.root, graph=cut.graphs()[self._index]).run(x)

    def extra_repr(self) -> str:
        return f"{'up to' if self._index == 0 else 'behind'} {self._cut[0].name!r} of"


def _traced(root: _OneInput, name: str) -> fx.Graph:
    random = RandomState.now()
    advice = "such a model takes two callables of your own in place of stem and rest"
    try:
        graph = _AncestorTracer(f"model.{name}").trace(root)
    except Exception as error:  # whatever the model's own code makes of tensors that have no values
        random.restore()
        raise ValueError(f"a module that contains {name!r} cannot be traced ({error}); {advice}") from error
    # What it draws would be a constant of the graph.
    if not random.same_as(RandomState.now()):
        random.restore()
        raise ValueError(f"a module that contains {name!r} draws random numbers in its own forward; {advice}")
    return graph


def _only_call(graph: fx.Graph, name: str) -> fx.Node:
    calls = [node for node in graph.nodes if node.op == "call_module" and node.target == f"model.{name}"]
    if len(calls) != 1:
        times = f"{len(calls)} times" if calls else "never"
        raise ValueError(f"the model is cut behind a module that it calls once; {name!r} is called {times}")
    return calls[0]


def _stem(graph: fx.Graph, cut: fx.Node) -> fx.Graph:
    """Everything up to ``cut``, in the order of the forward pass: what is done in place is done too."""
    stem = fx.Graph()
    copies: dict[fx.Node, fx.Node] = {}
    for node in graph.nodes:
        copies[node] = stem.node_copy(node, copies.__getitem__)
        if node is cut:
            break
    stem.output(copies[cut])
    return stem


def _rest(graph: fx.Graph, cut: fx.Node, name: str) -> fx.Graph:
    """Everything behind ``cut``, given its output, with the parameters and constants read before."""
    nodes = list(graph.nodes)
    (images,) = (node for node in nodes if node.op == "placeholder")
    (output,) = (node for node in nodes if node.op == "output")
    around = _reached(images, lambda node: [user for user in node.users if user is not cut])
    needed = _reached(output, lambda node: [] if node is cut else node.all_input_nodes)
    reason = ""
    if cut not in needed:
        reason = "does not use its output"
    elif output in around:
        behind_cut = _reached(cut, lambda node: node.users) - {cut}
        crossing = [n for n in nodes if n in around - behind_cut and not behind_cut.isdisjoint(n.users)]
        reason = f"also needs what was computed before: {', '.join(map(_described, crossing))}"
    elif again := [n for n in nodes[: nodes.index(cut)] if n in needed - around and _changes_a_buffer(n)]:
        reason = f"also needs the result of a change made before, {', '.join(map(_described, again))}"
    if reason:
        raise ValueError(
            f"the part of the model behind {name!r} {reason}; cut where everything passes through one tensor, or use "
            "two callables of your own in place of stem and rest"
        )
    rest = fx.Graph()
    copies = {cut: rest.placeholder("y")}
    for node in nodes:
        behind = nodes.index(node) > nodes.index(cut)
        if node is not cut and node not in around and (behind or node in needed):
            copies[node] = rest.node_copy(node, copies.__getitem__)
    return rest


def _described(node: fx.Node) -> str:
    """Return the name by which a user knows the node: that of the module which it calls, if it calls one."""
    if node.op == "placeholder":
        return "the model's input"
    return repr(str(node.target).removeprefix("model.")) if node.op == "call_module" else node.name


def _changes_a_buffer(node: fx.Node) -> bool:
    return node.op == "call_method" and str(node.target).endswith("_") and not str(node.target).endswith("__")


def _reached(start: fx.Node, neighbours: Callable[[fx.Node], Iterable[fx.Node]]) -> set[fx.Node]:
    """Return the nodes that are reached from ``start``, itself included."""
    reached: set[fx.Node] = set()
    waiting = [start]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(neighbours(node))
    return reached
