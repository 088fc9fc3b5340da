"""A model's forward pass as a row of calls, without looking inside the modules that need no cut."""

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Interpreter, Node, Tracer

from primenet_lightning.arguments import first_line
from primenet_lightning.nn.layers import blank_input, trial_run


class Traced(NamedTuple):
    """A forward pass as a row of calls.

    Attributes:
        nodes: The calls in the order in which they are made, the image first, the output last.
        entered: For each module that is called, the place in ``nodes`` of the first call that it makes.
    """

    nodes: list[Node]
    entered: dict[str, int]


def trace(model: nn.Module, opened: Collection[str], training: bool) -> Traced:
    """Record a forward pass, the inside of some modules included; all others stay calls of the modules themselves.

    Whatever a module that is not opened does, such as stochastic depth in training, it goes on doing. Arguments beside
    the image have their defaults. Nothing is computed.

    Args:
        model: From images to logits.
        opened: Names of the modules whose inside is recorded too; the model itself, ``""``, always is.
        training: In which mode.

    Returns:
        The record.

    Raises:
        ValueError: If the code of the model, or of a module that is opened, cannot be recorded.

    Example:
        >>> model = nn.Sequential(nn.Sequential(nn.Linear(4, 4), nn.ReLU()), nn.Linear(4, 2))
        >>> trace(model, [], training=False).entered
        {'0': 1, '1': 2}
        >>> trace(model, ["0"], training=False).entered
        {'0': 1, '0.0': 1, '0.1': 2, '1': 3}
    """
    recorder = _Recorder({"", *opened})
    attributes = set(vars(model))
    with _mode(model, training):
        try:
            graph = recorder.trace(model)
        except Exception as error:  # whatever a foreign forward pass raises when it is given no numbers
            raise ValueError(_refusal(model, opened, first_line(error))) from error
        finally:
            constants = set(vars(model)) - attributes
            for constant in constants:
                delattr(model, constant)
    if constants:
        raise ValueError(_refusal(model, opened, "it makes a tensor of its own"))
    return Traced(list(graph.nodes), recorder.entered)


def trace_both(model: nn.Module, opened: Collection[str]) -> dict[bool, Traced]:
    """Record the forward pass in evaluation and in training.

    Args:
        model: From images to logits.
        opened: Names of the modules to look into.

    Returns:
        By mode: True for training.

    Raises:
        ValueError: If it cannot be recorded, see `trace`.

    Example:
        >>> [len(traced.nodes) for traced in trace_both(nn.Sequential(nn.Linear(4, 3)), [""]).values()]
        [3, 3]
    """
    return {training: trace(model, opened, training) for training in (False, True)}


class _Recorder(Tracer):
    """torch.fx's tracer, which looks into the modules named only, and gives the model nothing but the image."""

    proxy_buffer_attributes = True  # or what is computed from a buffer would be a constant

    def __init__(self, opened: Collection[str]) -> None:
        super().__init__()
        self.opened = opened
        self.entered: dict[str, int] = {}

    def is_leaf_module(self, m: nn.Module, module_qualified_name: str) -> bool:
        return module_qualified_name not in self.opened

    def call_module(self, m: nn.Module, forward: Any, args: Any, kwargs: Any) -> Any:
        self.entered.setdefault(self.path_of_module(m), len(self.graph.nodes))
        return super().call_module(m, forward, args, kwargs)

    def create_args_for_root(self, root_fn: Any, is_module: bool, concrete_args: Any = None) -> tuple[Any, list[Any]]:
        image = self.create_proxy("placeholder", "x", (), {})
        return root_fn, [self.root, image]


@contextmanager
def _mode(model: nn.Module, training: bool) -> Iterator[None]:
    """Have every module say that it is in this mode, and nothing else change."""
    modes = [(module, module.training) for module in model.modules()]
    for module, _ in modes:
        module.training = training
    try:
        yield
    finally:
        for module, before in modes:
            module.training = before


def _refusal(model: nn.Module, opened: Collection[str], reason: str) -> str:
    inside = ", ".join(name for name in sorted(opened) if name)
    reason = reason.partition(". ")[0]  # torch.fx goes on at length
    where = f"{type(model).__name__}'s forward pass"
    remedy = "its code must not look at the numbers of a tensor, nor make tensors of its own"
    if inside:
        where += f", that of {inside} included,"
        remedy = "cut at other modules, nearer to the model itself"
    return f"{where} cannot be recorded: {reason}; {remedy}"


def shapes_of(model: nn.Module, traced: Traced, example_shape: tuple[int, ...]) -> Mapping[Node, Any]:
    """Run the calls on two blank images in evaluation mode, and see what each one gives.

    Args:
        model: That was traced.
        traced: Its forward pass.
        example_shape: Of one image, without the batch.

    Returns:
        By call: the shape where it gives a tensor, else the name of the type.

    Raises:
        ValueError: If the model takes no images of that shape, or the calls cannot be made again.

    Example:
        >>> model = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> traced = trace(model, [], training=False)
        >>> list(shapes_of(model, traced, (1, 2, 2)).values())
        [(2, 1, 2, 2), (2, 4), (2, 3), (2, 3)]
    """
    x = blank_input(model, example_shape)
    runner = _ShapeRunner(model, graph=traced.nodes[0].graph)
    with trial_run(model):
        try:
            model(x.clone())
        except Exception as error:  # each model has an error of its own for images that it cannot take
            raise ValueError(
                f"{type(model).__name__} takes no images of shape {example_shape}: {first_line(error)}; give images of "
                "the size, and with the channels, that it was built for"
            ) from error
        try:
            runner.run(x)
        except Exception as error:  # a call that does otherwise when it is made again
            raise ValueError(_refusal(model, [], first_line(error))) from error
    return runner.shapes


class _ShapeRunner(Interpreter):
    """Runs recorded calls, and takes note of what each one gives."""

    def __init__(self, module: nn.Module, graph: torch.fx.Graph) -> None:
        super().__init__(module, graph=graph)
        self.extra_traceback = False
        self.shapes: dict[Node, Any] = {}

    def call_module(self, target: Any, args: Any, kwargs: Any) -> Any:
        return super().call_module(target, _changeable(args), _changeable(kwargs))

    def run_node(self, n: Node) -> Any:
        value = super().run_node(n)
        self.shapes[n] = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        return value


def _changeable(value: Any) -> Any:
    """Lists that a module may change; recorded ones may not be."""
    if isinstance(value, list):
        return [_changeable(item) for item in value]
    if isinstance(value, tuple):
        return tuple(_changeable(item) for item in value)
    if isinstance(value, dict):
        return {name: _changeable(item) for name, item in value.items()}
    return value
