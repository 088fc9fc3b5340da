"""Parts: consecutive pieces of a model's forward pass, run by the model's own modules."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.fx import Graph

from primenet_lightning.nn.cutting.features import Features

Function = Callable[[nn.Module, Tensor], Tensor]


class Part(nn.Module):
    """A consecutive piece of a model's forward pass, from one tensor to one tensor.

    It runs, and trains, the modules of the model itself: ``model.train()``, ``model.eval()`` and ``model.to()`` reach
    it, and are the way to reach it.

    Args:
        model: That it is a piece of.
        graphs: What it computes, in evaluation (False) and in training (True).
        name: Of the module that it begins with; empty for the first part.

    Attributes:
        name: As given.
        body: The modules and parameters that it runs, under the names that they have in the model.
        in_shape: Of what it takes for one image, without the batch.
        out_shape: Of what it gives for one image.
        changes_input: Whether its calls may write into their input; then they are given a copy of it.

    Example:
        >>> from primenet_lightning.nn.cutting.cut import cut
        >>> model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
        >>> first, second = cut(model, (4,), at=["2"])
        >>> second.body.get_submodule("2") is model[2]
        True
        >>> x = torch.randn(5, 4)
        >>> torch.equal(second(first(x)), model(x))
        True
    """

    in_shape: tuple[int, ...]
    out_shape: tuple[int, ...]

    def __init__(self, model: nn.Module, graphs: Mapping[bool, Graph], name: str = "") -> None:
        super().__init__()
        self.name = name
        self.changes_input = False
        self._graphs = dict(graphs)
        self._functions: dict[bool, Function] = {}
        self._models = [model]  # in a list, or all of the model would be a module of this one
        self.body = nn.Module()
        for target, member in self._members().items():
            if isinstance(member, nn.Module | nn.Parameter):  # a buffer may be replaced in the model
                put(self.body, target, member)

    @property
    def model(self) -> nn.Module:
        """The model that it is a piece of."""
        return self._models[0]

    def forward(self, x: Tensor) -> Tensor:
        """Run the piece.

        Args:
            x: What the part before gives, ``(batch, ...)``; images for the first.

        Returns:
            What the next part takes, ``(batch, ...)``; logits of the last.
        """
        mode = self.model.training
        if mode not in self._functions:
            self._functions[mode] = _compiled(self._graphs[mode])
        if self.changes_input:
            x = x.clone()
        return self._functions[mode](self.model, x)

    def copied(self, copy: Callable[[Any], Any]) -> "Part":
        """Make a part of the same calls with modules of its own.

        Args:
            copy: Copies a module, a parameter or a buffer.

        Returns:
            The new part. Its model is its own body, which shares nothing with this one's.
        """
        body = nn.Module()
        copies: dict[int, Any] = {}
        for target, member in self._members().items():
            if id(member) not in copies:
                copies[id(member)] = copy(member)
            put(body, target, copies[id(member)])
        body.train(self.model.training)
        new = Part(body, self._graphs, self.name)
        new.body = body
        new.in_shape, new.out_shape = self.in_shape, self.out_shape
        new.changes_input = self.changes_input
        return new

    @property
    def begins_in_place(self) -> bool:
        """Whether a module that the input goes to is told to write into it, be it in training only, as dropout."""
        for graph in self._graphs.values():
            x = next(iter(graph.nodes))
            for node in x.users:
                if node.op == "call_module" and getattr(self.model.get_submodule(str(node.target)), "inplace", False):
                    return True
        return False

    def _members(self) -> dict[str, Any]:
        """The modules, parameters and buffers that are called or read, by name."""
        members: dict[str, Any] = {}
        for graph in self._graphs.values():
            for node in graph.nodes:
                if node.op == "call_module":
                    members[node.target] = self.model.get_submodule(node.target)
                elif node.op == "get_attr":
                    members[node.target] = attribute(self.model, node.target)
        return members

    def __getstate__(self) -> dict[str, Any]:
        """Copies and pickles go without the compiled functions, which are made again when they are called."""
        return self.__dict__ | {"_functions": {}}


class Piece(NamedTuple):
    """A block of a model.

    Attributes:
        part: It, as a part.
        takes: What it takes.
        gives: What it gives.
    """

    part: Part
    takes: Features
    gives: Features


def _compiled(graph: Graph) -> Function:
    """The calls as a function of the model and the input."""
    code = graph.python_code("self")
    names = dict(code.globals)
    exec(compile(code.src, "<part of a model>", "exec"), names)
    function: Function = names["forward"]
    return function


def attribute(model: nn.Module, target: str) -> Any:
    """Look up a parameter, a buffer or whatever else a module has.

    Args:
        model: Where to begin.
        target: Its name, with dots.

    Returns:
        It.

    Example:
        >>> attribute(nn.Sequential(nn.Linear(4, 3)), "0.bias").shape
        torch.Size([3])
    """
    owner, _, name = target.rpartition(".")
    return getattr(model.get_submodule(owner), name)


def put(body: nn.Module, target: str, member: nn.Module | nn.Parameter | Tensor) -> None:
    """Put something into a module under a name with dots, each before the last an empty module.

    Args:
        body: That gets it.
        target: The name.
        member: A module, a parameter, or a buffer of any shape.

    Example:
        >>> body = nn.Module()
        >>> put(body, "layer1.0", nn.Linear(4, 3))
        >>> [name for name, _ in body.named_parameters()]
        ['layer1.0.weight', 'layer1.0.bias']
    """
    *path, name = target.split(".")
    for step in path:
        if step not in body._modules:
            body.add_module(step, nn.Module())
        body = body.get_submodule(step)
    if isinstance(member, nn.Module):
        body.add_module(name, member)
    elif isinstance(member, nn.Parameter):
        body.register_parameter(name, member)
    elif isinstance(member, torch.Tensor):
        body.register_buffer(name, member)
