"""MSDNet's network (Huang et al., ICLR 2018): dense over layers and scales, with exits on the way."""

from typing import Literal

from torch import Tensor, nn

from primenet_lightning.baselines.msdnet.layers import Growth, convolution, exit_features
from primenet_lightning.baselines.msdnet.plan import Plan
from primenet_lightning.nn.exits.network import ExitModule, State
from primenet_lightning.nn.exits.stage import ExitAnswers
from primenet_lightning.nn.resnets import he_
from primenet_lightning.nn.systems.gradient_scaling import scale_gradient

Equilibrium = Literal["coarsest", "all"]
"""Whose gradients are brought into equilibrium: those of the maps that exits see, or those of all scales."""


class MSDNetwork(ExitModule):
    r"""A dense network of several scales with exits on the coarsest one.

    With gradient equilibrium (Li et al., ICCV 2019) layers learn from the mean of the exits behind them, not from their
    sum. At the maps that exit i of K reads, the gradient from this exit's classifier is multiplied by
    :math:`1 / (K - i + 1)`, and the gradient from all that follows by :math:`(K - i) / (K - i + 1)`. Parameters of the
    exits themselves keep theirs.

    Args:
        in_channels: Channels of the images, whose size may be any.
        num_classes: Number of classes.
        plan: Layers, scales and exits.
        equilibrium: None: gradients of all exits add up, as in MSDNet. ``"coarsest"``: equilibrium in the maps that
            exits see, as in the authors' code. ``"all"``: in the maps of all scales, as in the paper's formula.

    Attributes:
        plan: As given; may be replaced by one that differs in ``lazy`` alone.

    Raises:
        ValueError: If there is no such equilibrium.

    Example:
        >>> import torch
        >>> network = MSDNetwork(3, 10, Plan(exits=3)).eval()
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 32, 32))]
        [(2, 10), (2, 10), (2, 10)]
        >>> sum(parameter.numel() for parameter in network.parameters())
        851866
    """

    def __init__(
        self, in_channels: int, num_classes: int, plan: Plan | None = None, equilibrium: Equilibrium | None = None
    ) -> None:
        super().__init__()
        if equilibrium not in (None, "coarsest", "all"):
            raise ValueError(f"equilibrium={equilibrium!r} is unknown; use 'coarsest' or 'all', or None for none")
        self.plan = plan = Plan() if plan is None else plan
        self.equilibrium = equilibrium
        # the first maps
        self.first = nn.ModuleList([convolution(in_channels, plan.channels)])
        for scale in range(1, plan.scales):
            finer, coarser = plan.channels * plan.factor(scale - 1), plan.channels * plan.factor(scale)
            self.first.append(convolution(finer, coarser, stride=2))
        # the layers
        self.layers = nn.ModuleList()
        for layer in range(1, plan.layers + 1):
            growths = nn.ModuleDict()
            for scale in range(plan.scales):
                if plan.is_read(layer, scale):
                    growths[str(scale)] = Growth(plan, layer, scale)
            self.layers.append(growths)
        # the exits
        self.exits, self.classifiers = nn.ModuleList(), nn.ModuleList()
        for end in plan.ends:
            width = plan.width(end + 1) * plan.factor(plan.coarsest)
            self.exits.append(exit_features(width, plan.exit_channels))
            self.classifiers.append(nn.Linear(plan.exit_channels, num_classes))
        he_(self)
        for classifier in self.classifiers:
            assert isinstance(classifier, nn.Linear)
            nn.init.zeros_(classifier.bias)

    @property
    def num_exits(self) -> int:
        """How many exits there are."""
        return self.plan.exits

    def answer_all(self, x: Tensor) -> ExitAnswers:
        """Answer at every exit; nobody teaches.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            The answers.
        """
        return ExitAnswers(list(self(x)))

    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and this exit's answer.

        Args:
            exit_index: Of this exit, from 0.
            state: All maps of each scale, ``(batch, channels, height, width)``; at the first exit the images alone.

        Returns:
            The maps, ``(batch, channels, height, width)`` each, and the logits, ``(batch, classes)``.
        """
        maps, features = self.features(exit_index, state)
        return maps, self.classifiers[exit_index](features)

    def features(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and what this exit classifies.

        Args:
            exit_index: Of this exit, from 0.
            state: All maps of each scale, ``(batch, channels, height, width)``; at the first exit the images alone.

        Returns:
            The maps, ``(batch, channels, height, width)`` each, and the exit's features, ``(batch, exit_channels)``.
        """
        maps = self._begin(*state) if exit_index == 0 else list(state)
        for layer, scale in self.plan.visits(exit_index):
            maps[scale] = self._grow(layer, scale, maps)
        behind = self.num_exits - exit_index - 1
        if self.equilibrium is not None:
            maps[-1] = scale_gradient(maps[-1], 1 / (behind + 1))
        features = self.exits[exit_index](maps[-1])
        if self.equilibrium is not None and behind:
            maps[-1] = scale_gradient(maps[-1], behind)
        return tuple(maps), features

    def _begin(self, x: Tensor) -> list[Tensor]:
        """The first maps of each scale."""
        maps: list[Tensor] = []
        for convolve in self.first:
            x = convolve(x)
            maps.append(x)
        return maps

    def _grow(self, layer: int, scale: int, maps: list[Tensor]) -> Tensor:
        """A scale with what a layer adds to it."""
        finer = maps[scale - 1] if scale else None
        grown: Tensor = self.layers[layer - 1][str(scale)](finer, maps[scale])  # type: ignore[index]
        if self.equilibrium != "all" or scale == self.plan.coarsest or layer not in self.plan.ends:
            return grown
        behind = self.num_exits - self.plan.ends.index(layer) - 1
        return scale_gradient(grown, behind / (behind + 1))

    def parts(self, exit_index: int) -> list[nn.Module]:
        """Name what lies between the exit before and this one, this exit included.

        Args:
            exit_index: Of the exit, from 0.

        Returns:
            Modules; those of all exits together have every parameter once.
        """
        start = 0 if exit_index == 0 else self.plan.ends[exit_index - 1]
        layers = list(self.layers[start : self.plan.ends[exit_index]])
        first: list[nn.Module] = [self.first] if exit_index == 0 else []
        return [*first, *layers, self.exits[exit_index], self.classifiers[exit_index]]
