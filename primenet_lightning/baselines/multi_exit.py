"""A small network with several exits: easy images leave early (after MSDNet, Huang et al., ICLR 2018)."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.baselines.msdnet.layers import convolution, exit_features
from primenet_lightning.baselines.resnets import he_
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.exits import thresholds as exits
from primenet_lightning.nn.exits.costs import ExitRecord, spent
from primenet_lightning.nn.exits.costs import exit_costs as count_exits
from primenet_lightning.nn.exits.network import ExitModule, State, classify
from primenet_lightning.nn.exits.thresholds import confidences
from primenet_lightning.nn.losses import summed_cross_entropy
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable

Maps = tuple[Tensor, Tensor]
"""All fine and all coarse maps so far, ``(batch, channels, height, width)`` and half as high and wide."""


class DenseLayer(nn.Module):
    """One layer over two scales (MSDNet's figure 2): each scale's new maps see all maps before them.

    New coarse maps come from the fine maps by a convolution of stride 2 and from the coarse ones by a plain one. The
    new fine maps are only computed at the beginning of the layer that reads them: whoever leaves before does not pay
    for them, which is the paper's lazy evaluation.

    Args:
        fine: Channels of all fine maps when the layer begins.
        coarse: Channels of all coarse maps.
        growth: New channels of the fine scale; the coarse one has twice as many.
        first: Whether no layer stands before, whose fine maps would have to be computed.
    """

    def __init__(self, fine: int, coarse: int, growth: int, first: bool) -> None:
        super().__init__()
        self.fine = None if first else convolution(fine, growth)
        self.down = convolution(fine if first else fine + growth, growth, stride=2)
        self.same = convolution(coarse, growth)

    def forward(self, maps: Maps) -> Maps:
        """Add this layer's maps to all those before.

        Args:
            maps: All fine maps until now, ``(batch, channels, height, width)``, and all coarse ones, half as high and
                wide.

        Returns:
            The same two, with the new fine maps of the layer before, if there is one, and this layer's new coarse maps:
            ``(batch, channels', height, width)``, and half as high and wide.
        """
        fine, coarse = maps
        if self.fine is not None:
            fine = torch.cat([fine, self.fine(fine)], dim=1)
        return fine, torch.cat([coarse, self.down(fine), self.same(coarse)], dim=1)


class MultiExitNetwork(ExitModule):
    """A dense network of two scales with an exit classifier after every few layers, all on the coarse scale.

    After MSDNet (Huang et al. 2018; `MSDNet` in full), whose design this is at a smaller size: two scales, no 1x1
    bottlenecks before the 3x3 convolutions, and neither transition layers nor scales dropped on the way, which save
    cost in deep networks. Exits are the paper's: two convolutions of stride 2, average pooling, dense. It stays beside
    `MSDNet` so that runs of version 0.1 load and go on; for new work take `MSDNet`.

    Args:
        in_channels: Channels of the images, whose size may be any.
        num_classes: Number of classes.
        exits: Exits, one per stage.
        layers: Layers of a stage.
        channels: Channels of the first fine map; of the first coarse one, twice as many.
        growth: Channels that a layer adds to the fine scale; to the coarse one, twice as many.
        exit_channels: Filters of the exits' convolutions.

    Raises:
        ValueError: If one of these is below 1.

    Example:
        >>> network = MultiExitNetwork(1, 10).eval()
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 1, 8, 8))]
        [(2, 10), (2, 10), (2, 10)]
        >>> logits, exit_index = network.classify(torch.zeros(2, 1, 8, 8), threshold=0.0)
        >>> exit_index
        tensor([0, 0])
    """

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        exits: int = 3,
        layers: int = 2,
        channels: int = 16,
        growth: int = 8,
        exit_channels: int = 32,
    ) -> None:
        super().__init__()
        sizes = dict(exits=exits, layers=layers, channels=channels, growth=growth, exit_channels=exit_channels)
        for name, size in sizes.items():
            if size < 1:
                raise ValueError(f"{name}={size} must be at least 1")
        self.to_fine = convolution(in_channels, channels)
        self.to_coarse = convolution(channels, 2 * channels, stride=2)
        self.stages, self.exits = nn.ModuleList(), nn.ModuleList()
        fine, coarse = channels, 2 * channels
        for number in range(exits * layers):
            layer = DenseLayer(fine, coarse, growth, first=number == 0)
            fine, coarse = fine + (growth if number else 0), coarse + 2 * growth
            if number % layers == 0:
                self.stages.append(nn.Sequential())
            self.stages[-1].append(layer)  # type: ignore[operator]
            if number % layers == layers - 1:
                self.exits.append(_exit(coarse, exit_channels, num_classes))
        he_(self)

    @property
    def num_exits(self) -> int:
        """How many exits there are."""
        return len(self.exits)

    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and this exit's answer.

        Args:
            exit_index: Of this exit, from 0.
            state: All fine and all coarse maps, ``(batch, channels, height, width)``; at the first exit the images.

        Returns:
            The maps, ``(batch, channels, height, width)`` each, and the logits, ``(batch, classes)``.
        """
        maps = self._begin(*state) if exit_index == 0 else state
        maps = self.stages[exit_index](maps)
        return maps, self.exits[exit_index](maps[1])

    def _begin(self, x: Tensor) -> Maps:
        fine = self.to_fine(x)
        return fine, self.to_coarse(fine)

    def classify(self, x: Tensor, threshold: float) -> tuple[Tensor, Tensor]:
        """Let each image leave at the first exit that is sure enough, and compute the rest for those that stay.

        In evaluation mode; in training mode the batch norms would see other images at each exit.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            threshold: An image leaves where its largest softmax probability reaches this; at the last exit all do.

        Returns:
            Logits, ``(batch, classes)``, and the index of the exit that gave them, ``(batch,)``, int64.

        Raises:
            ValueError: If the threshold is not within 0 and 1.
        """
        _check_threshold(threshold)
        return classify(self, x, [threshold] * self.num_exits)


def _exit(in_channels: int, channels: int, num_classes: int) -> nn.Sequential:
    return nn.Sequential(*exit_features(in_channels, channels), nn.Linear(channels, num_classes))


def _check_threshold(threshold: float) -> None:
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold={threshold} is no probability; give 0 (all leave at the first exit) to 1")


class MultiExit(EndToEnd):
    """`MultiExitNetwork` trained end to end on the sum of its exits' cross-entropies, all with the same weight.

    ``train/loss/head`` is that sum, and ``train/accuracy`` the last exit's; validation, test and prediction take
    each image's answer from the exit where it leaves. MSDNet's *budgeted batch classification* chooses one threshold
    an exit on validation images, to spend a given budget; here one threshold for all exits is given, and `exit_table`
    shows what others would give.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        exits: As in `MultiExitNetwork`, as are the four that follow.
        layers: Layers of a stage.
        channels: Channels of the first fine map.
        growth: Channels that a layer adds to the fine scale.
        exit_channels: Filters of the exits' convolutions.
        threshold: An image leaves where its largest softmax probability reaches this.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Raises:
        ValueError: If the threshold is not within 0 and 1, or a size is below 1.

    Example:
        >>> MultiExit(threshold=0.8).eval()(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        exits: int = 3,
        layers: int = 2,
        channels: int = 16,
        growth: int = 8,
        exit_channels: int = 32,
        threshold: float = 0.9,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        _check_threshold(threshold)
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)
        self.threshold = threshold

    def configure_backbone(self) -> MultiExitNetwork:
        """Build the network of several exits."""
        sizes = {name: self.hparams[name] for name in ("exits", "layers", "channels", "growth", "exit_channels")}
        return MultiExitNetwork(self.in_shape[0], self.num_classes, **sizes)

    def configure_network(self) -> WholeNetwork:
        """Make it one stage, whose loss is the sum of the exits' losses, and whose logits are the last exit's."""
        return WholeNetwork(self.configure_backbone(), self.in_shape, summed_cross_entropy, last_exit)

    def forward(self, x: Tensor) -> Tensor:
        """Classify images, each at the exit where it leaves; as in `EndToEnd`."""
        network = self.network.model
        assert isinstance(network, MultiExitNetwork)
        return network.classify(self.images_of(x), self.threshold)[0]


def last_exit(answers: Sequence[Tensor]) -> Tensor:
    """Take the logits of the last exit.

    Args:
        answers: ``(batch, classes)`` of each exit.

    Returns:
        The last one's, ``(batch, classes)``.
    """
    return answers[-1]


class ExitRow(NamedTuple):
    """What one threshold gives.

    Attributes:
        threshold: The threshold.
        error: Of the answers at the exits taken, in %.
        multiply_adds: Mean of those that an image took.
    """

    threshold: float
    error: float
    multiply_adds: float


def exits_taken(logits: Sequence[Tensor], threshold: float) -> Tensor:
    """Tell where images would leave.

    Args:
        logits: ``(batch, classes)`` of each exit, from `MultiExitNetwork`.
        threshold: Of the largest softmax probability.

    Returns:
        Exit indices, ``(batch,)``, int64.

    Raises:
        ValueError: If the threshold is not within 0 and 1.

    Example:
        >>> unsure, sure = torch.tensor([[0.1, 0.0]]), torch.tensor([[9.0, 0.0]])
        >>> exits_taken([unsure, sure, sure], 0.9)
        tensor([1])
    """
    _check_threshold(threshold)
    return exits.exits_taken(confidences(torch.stack(list(logits))), [threshold] * len(logits))


def exit_table(
    logits: Sequence[Tensor], labels: Tensor, costs: Sequence[int], thresholds: Sequence[float]
) -> list[ExitRow]:
    """Tabulate error and mean cost by threshold.

    Args:
        logits: ``(batch, classes)`` of each exit, for all images.
        labels: Class indices, ``(batch,)``.
        costs: Multiply-adds up to and with each exit, from `exit_costs`.
        thresholds: Within 0 and 1.

    Returns:
        One row a threshold.

    Raises:
        ValueError: If there are not as many costs as exits, or a threshold is not within 0 and 1.

    Example:
        >>> unsure, sure = torch.tensor([[0.1, 0.0]]), torch.tensor([[0.0, 9.0]])
        >>> exit_table([unsure, sure], torch.tensor([1]), costs=[10, 30], thresholds=[0.5, 0.9])
        [ExitRow(threshold=0.5, error=100.0, multiply_adds=10.0), ExitRow(threshold=0.9, error=0.0, multiply_adds=30.0)]
    """
    record = ExitRecord()
    record.add(logits, labels)
    rows: list[ExitRow] = []
    for threshold in thresholds:
        _check_threshold(threshold)
        result = spent(record.confidence, record.wrong, costs, [threshold] * len(logits))
        rows.append(ExitRow(threshold, result.error, result.multiply_adds))
    return rows


def exit_costs(network: MultiExitNetwork, in_shape: tuple[int, int, int]) -> list[int]:
    """Count the multiply-adds of one image up to each exit, on a real forward of a copy.

    The convention is that of `primenet_lightning.analysis.cost.count_cost`: a multiplication and its addition are one;
    convolutions and matrix products count, norms, activations and poolings do not. An image that passes an exit has
    paid for its classifier.

    Args:
        network: The network, which is left as it was.
        in_shape: Channels, height and width of the images.

    Returns:
        Multiply-adds, one an exit, rising.

    Example:
        >>> exit_costs(MultiExitNetwork(1, 10), (1, 8, 8))
        [378176, 1005184, 1927104]
    """
    return count_exits(network, in_shape)
