"""Learned group convolutions: how they condense, and what they become."""

import copy
from collections import OrderedDict

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.systems.masks import group_lasso, importance, masked, without_least


def stage_at(progress: float, condensation: int) -> int:
    r"""Tell how far a layer has condensed: :math:`\min(C - 1, \lfloor 2 p (C - 1) \rfloor)`.

    Args:
        progress: :math:`p`, the share of the training that is done, from 0 to 1.
        condensation: :math:`C`; one part in so many of the inputs is left at the end.

    Returns:
        The stage, from 0; the last one begins at half of the training.

    Example:
        >>> [stage_at(progress, 4) for progress in (0, 0.16, 0.17, 0.33, 0.34, 0.49, 0.5, 0.9)]
        [0, 0, 1, 1, 2, 2, 3, 3]
    """
    last = condensation - 1
    # 1/6 of the training as a sum of epochs and batches may be less than 1/6 in the last digit
    return min(last, int(2 * progress * last + 1e-9))


class LearnedGroupConvolution(nn.Conv2d):
    """A 1x1 convolution whose groups of filters learn which of the input channels they need.

    Huang, Liu, van der Maaten and Weinberger, "CondenseNet: An Efficient DenseNet using Learned Group Convolutions",
    CVPR 2018. It starts dense. At each stage each group of filters gives up the channels that it reads least, the same
    number of them, until one part in ``condensation`` is left. Filter ``o`` belongs to group ``o mod groups``.

    Args:
        in_channels: Channels of the input, a multiple of ``groups`` and of ``condensation``.
        out_channels: Filters, a multiple of ``groups``.
        groups: Groups of filters.
        condensation: One part in so many of the input channels is left at the end; 1 leaves all, a plain convolution.

    Attributes:
        alive: Which channels each group reads, ``(groups, in_channels)``, bool.

    Raises:
        ValueError: If a number is below 1, or the channels cannot be shared out evenly.

    Example:
        >>> layer = LearnedGroupConvolution(8, 4, groups=2, condensation=4)
        >>> layer.condense(2)
        >>> layer.stage, layer.alive.sum(1)
        (2, tensor([4, 4]))
    """

    alive: Tensor

    def __init__(self, in_channels: int, out_channels: int, groups: int, condensation: int) -> None:
        at_least(1, groups=groups, condensation=condensation)
        for name, parts in (("groups", groups), ("condensation", condensation)):
            if in_channels % parts:
                raise ValueError(
                    f"{name}={parts} does not divide the {in_channels} input channels of a learned group convolution; "
                    "choose a growth, and a number of layers, with which it does"
                )
        if out_channels % groups:
            raise ValueError(f"groups={groups} does not divide the {out_channels} filters; choose another growth")
        super().__init__(in_channels, out_channels, 1, bias=False)
        self.condensation = condensation
        self.register_buffer("alive", torch.ones(groups, in_channels, dtype=torch.bool))

    @property
    def stage(self) -> int:
        """How often channels have been given up, from 0 to ``condensation - 1``."""
        return (self.in_channels - int(self.alive[0].sum())) // self.portion

    @property
    def portion(self) -> int:
        """Channels that a group gives up at a stage."""
        return self.in_channels // self.condensation

    @property
    def is_condensed(self) -> bool:
        """Whether the last stage has been reached."""
        return self.stage == self.condensation - 1

    @torch.no_grad()
    def condense(self, stage: int) -> None:
        """Give up what each group reads least, until a stage is reached; what is given up does not come back.

        Args:
            stage: From 0 to ``condensation - 1``; nothing happens where it has been reached.
        """
        missing = stage - self.stage
        if missing > 0:
            scores = importance(self.weight, self.alive)
            self.alive.copy_(without_least(self.alive, scores, missing * self.portion))

    def lasso(self) -> Tensor:
        """Penalise channels that a group could do without, a scalar; see `group_lasso`."""
        return group_lasso(self.weight, self.alive)

    def forward(self, x: Tensor) -> Tensor:
        """Convolve with what is alive.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, out_channels, height, width)``.
        """
        convolved: Tensor = self._conv_forward(x, masked(self.weight, self.alive), None)
        return convolved


class Gather(nn.Module):
    """Takes channels, or features, in a given order; one may be taken several times, or never.

    Args:
        index: Which, ``(taken,)``, int64.

    Example:
        >>> Gather(torch.tensor([2, 0, 2]))(torch.tensor([[5.0, 6.0, 7.0]]))
        tensor([[7., 5., 7.]])
    """

    index: Tensor

    def __init__(self, index: Tensor) -> None:
        super().__init__()
        self.register_buffer("index", index)

    def forward(self, x: Tensor) -> Tensor:
        """Take them.

        Args:
            x: ``(batch, channels, ...)``.

        Returns:
            ``(batch, taken, ...)``.
        """
        return x.index_select(1, self.index)


class Pointwise(nn.Sequential):
    """Batch norm, ReLU, dropout, and a learned group convolution.

    Args:
        in_channels: Channels of the input.
        out_channels: Filters.
        groups: Groups of filters.
        condensation: See `LearnedGroupConvolution`.
        dropout: Share of the values that are dropped in training.

    Example:
        >>> layer = Pointwise(8, 4, groups=2, condensation=2)
        >>> layer(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 4, 5, 5])
    """

    convolution: LearnedGroupConvolution

    def __init__(
        self, in_channels: int, out_channels: int, groups: int, condensation: int, dropout: float = 0.0
    ) -> None:
        layers = OrderedDict[str, nn.Module](norm=nn.BatchNorm2d(in_channels), relu=nn.ReLU())
        if dropout:
            layers["dropout"] = nn.Dropout(dropout)
        layers["convolution"] = LearnedGroupConvolution(in_channels, out_channels, groups, condensation)
        super().__init__(layers)


def fixed(in_channels: int, out_channels: int, groups: int, dropout: float = 0.0) -> nn.Sequential:
    """Build what a `Pointwise` is compared with: groups that are fixed from the start, and a channel shuffle.

    Args:
        in_channels: Channels of the input.
        out_channels: Filters.
        groups: Groups of filters.
        dropout: Share of the values that are dropped in training.

    Returns:
        Batch norm, ReLU, dropout, group convolution and shuffle.

    Raises:
        ValueError: If the channels cannot be shared out evenly.

    Example:
        >>> fixed(8, 4, groups=2)(torch.zeros(2, 8, 5, 5)).shape
        torch.Size([2, 4, 5, 5])
    """
    if in_channels % groups or out_channels % groups:
        raise ValueError(
            f"groups={groups} does not divide the {in_channels} inputs and {out_channels} filters of a group "
            "convolution; choose a growth with which it does"
        )
    layers = OrderedDict[str, nn.Module](norm=nn.BatchNorm2d(in_channels), relu=nn.ReLU())
    if dropout:
        layers["dropout"] = nn.Dropout(dropout)
    layers["convolution"] = nn.Conv2d(in_channels, out_channels, 1, groups=groups, bias=False)
    layers["shuffle"] = nn.ChannelShuffle(groups)
    return nn.Sequential(layers)


@torch.no_grad()
def converted(layer: Pointwise) -> nn.Sequential:
    """Make a group convolution of a learned one: channels are gathered group by group, and shuffled afterwards.

    Args:
        layer: Condensed to its last stage.

    Returns:
        A new module of the same answers to rounding, in the same mode.

    Raises:
        ValueError: If it has stages to go.
    """
    learned = layer.convolution
    if not learned.is_condensed:
        raise ValueError(
            f"the network is at stage {learned.stage} of {learned.condensation - 1} of its condensation, and cannot be "
            "converted; train it beyond the half of the epochs that its condensation is laid out over"
        )
    if learned.condensation == 1:
        return _ungrouped(layer)
    groups = len(learned.alive)
    kept = []
    for group, alive in enumerate(learned.alive):
        kept.append(learned.weight[group::groups, alive])
    index = learned.alive.nonzero()[:, 1]
    return _with_convolution(layer, index, torch.cat(kept), groups)


def _ungrouped(layer: Pointwise) -> nn.Sequential:
    """The same with an ordinary convolution: where nothing was given up, nothing has to be gathered or shuffled."""
    learned = layer.convolution
    convolution = nn.Conv2d(learned.in_channels, learned.out_channels, 1, bias=False)
    convolution.weight.copy_(learned.weight)
    layers = OrderedDict[str, nn.Module]()
    for name, part in layer.named_children():
        layers[name] = convolution if part is learned else copy.deepcopy(part)
    return nn.Sequential(layers).to(learned.weight).train(layer.training)


def _with_convolution(layer: Pointwise, index: Tensor, weight: Tensor, groups: int) -> nn.Sequential:
    """Gather, the layer's norm of the channels gathered, its ReLU and dropout, group convolution, shuffle."""
    convolution = nn.Conv2d(len(index), len(weight), 1, groups=groups, bias=False)
    convolution.weight.copy_(weight)
    layers = OrderedDict[str, nn.Module](index=Gather(index), norm=gathered_norm(layer[0], index))
    for name, part in layer.named_children():
        if name not in ("norm", "convolution"):
            layers[name] = part
    layers["convolution"] = convolution
    layers["shuffle"] = nn.ChannelShuffle(groups)
    # a batch norm that is new is in training mode
    return nn.Sequential(layers).to(weight).train(layer.training)


def gathered_norm(norm: nn.Module, index: Tensor) -> nn.Module:
    """Make the norm of channels that were gathered.

    Args:
        norm: A batch norm of all channels; what is none is taken as it is.
        index: Channels gathered, ``(taken,)``, int64.

    Returns:
        A batch norm of those.
    """
    if not isinstance(norm, nn.BatchNorm2d):
        return norm
    gathered = nn.BatchNorm2d(len(index), norm.eps, norm.momentum)
    state = norm.state_dict()
    for name in ("weight", "bias", "running_mean", "running_var"):
        state[name] = state[name][index]
    gathered.load_state_dict(state)
    return gathered
