"""A network whose branches learn from their own ensemble, in pure torch."""

import copy
from collections import OrderedDict
from typing import ClassVar, Literal, NamedTuple, get_args

import torch
from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import whole_number
from primenet_lightning.baselines.one.resnet import BlockName, block_of, lower_parts, upper_parts
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.resnets import he_
from primenet_lightning.nn.stages import StageRow
from primenet_lightning.nn.systems.distillation import distillation
from primenet_lightning.nn.whole import Whole, WholeNetwork

Answering = Literal["target", "ensemble"]
"""Who predicts: the first branch, or all of them by the gate (ONE-E)."""


class Answers(NamedTuple):
    """What the branches say, and their ensemble.

    Attributes:
        branches: Logits, ``(branches, batch, classes)``.
        ensemble: Logits of the teacher, ``(batch, classes)``.
    """

    branches: Tensor
    ensemble: Tensor


class Gate(nn.Module):
    """Weighs the branches by the map that they share.

    Global average pooling, dense layer, batch norm over the branches, ReLU, softmax.

    Args:
        channels: Of the map.
        branches: How many there are.

    Example:
        >>> Gate(8, 3)(torch.randn(2, 8, 4, 4)).detach().sum(1).round(decimals=4)
        tensor([1., 1.])
    """

    def __init__(self, channels: int, branches: int) -> None:
        super().__init__()
        self.pool = nn.AdaptiveAvgPool2d(1)
        self.linear = nn.Linear(channels, branches)
        self.norm = nn.BatchNorm1d(branches)

    def forward(self, x: Tensor) -> Tensor:
        """Weigh the branches, image by image.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Weights, ``(batch, branches)``, of sum 1.

        Raises:
            ValueError: If it has to learn from one image, of which a batch norm has no variance.
        """
        if self.training and len(x) == 1:
            raise ValueError(
                "a batch has one image, from which the gate of ONE cannot learn: its batch norm needs two; use another "
                "batch_size, which leaves no single image over"
            )
        scores = self.norm(self.linear(self.pool(x).flatten(1))).relu()
        return at_least_float32(scores).softmax(1)


class NativeEnsemble(nn.Module, metaclass=CheckedArguments):
    """A residual network with several last stages, whose ensemble teaches each of them.

    Args:
        in_channels: Channels of the images, whose size may be any.
        num_classes: Number of classes.
        depth: Layers of the target network, 6 n + 2.
        block: Kind of its blocks; None is as in the authors' code, see `block_of`.
        branches: Last stages, the target's included.
        temperature: Of the distillation.
        predicts: ``"target"``: the first branch alone. ``"ensemble"``: all, weighed by the gate.

    Attributes:
        distilled: Weight of the distillation in `loss`, which comes in slowly: see `rise`.

    Raises:
        ValueError: If an option is unknown or out of its range.

    Example:
        >>> network = NativeEnsemble(3, 10, depth=32).eval()
        >>> sum(parameter.numel() for parameter in network.parameters())
        1175639
        >>> network(torch.zeros(2, 3, 8, 8)).branches.shape, network.predict(torch.zeros(2, 3, 8, 8)).shape
        (torch.Size([3, 2, 10]), torch.Size([2, 10]))
    """

    _checked_by_itself: ClassVar[tuple[str, ...]] = ("branches",)

    def __init__(
        self,
        in_channels: int,
        num_classes: int,
        depth: int = 32,
        block: BlockName | None = None,
        branches: int = 3,
        temperature: float = 3.0,
        predicts: Answering = "target",
    ) -> None:
        super().__init__()
        kind = block_of(depth, block)
        if whole_number(1, branches=branches) == 1:
            raise ValueError("branches=1 makes no ensemble; use at least 2, or TargetResNet, which is one branch alone")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be positive; the paper's is 3")
        if predicts not in get_args(Answering):
            raise ValueError(f"predicts={predicts!r} is unknown; use 'target' or 'ensemble'")
        self.temperature = temperature
        self.predicts = predicts
        self.distilled = 1.0
        self.shared = nn.Sequential(lower_parts(in_channels, depth, kind))
        self.gate = Gate(32 if kind == "basic" else 128, branches)
        self.auxiliary = nn.ModuleList()
        for _ in range(branches - 1):
            self.auxiliary.append(nn.Sequential(upper_parts(num_classes, depth, kind)))
        # the last of all, so that the last linear layer is one that predicts
        self.target = nn.Sequential(upper_parts(num_classes, depth, kind))
        he_(self)

    @property
    def branches(self) -> list[nn.Module]:
        """The last stages, the target's first."""
        return [self.target, *self.auxiliary]

    def forward(self, x: Tensor) -> Answers:
        """Let all branches answer.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Their logits, ``(branches, batch, classes)``, and those of the ensemble.
        """
        x = self.shared(x)
        branches = torch.stack([branch(x) for branch in self.branches])
        weights = self.gate(x).t()[:, :, None]
        # a product of matrices would be counted among the multiply-adds
        return Answers(branches, (weights * branches).sum(0))

    def predict(self, x: Tensor) -> Tensor:
        """Classify images, computing no more than that needs.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        if self.predicts == "ensemble":
            answers: Answers = self(x)
            return answers.ensemble
        logits: Tensor = self.target(self.shared(x))
        return logits

    def answer(self, answers: Answers) -> Tensor:
        """Take the logits of who predicts.

        Args:
            answers: Logits of all, ``(branches, batch, classes)``.

        Returns:
            ``(batch, classes)``.
        """
        if self.predicts == "ensemble":
            return answers.ensemble
        return answers.branches[0]

    def loss(self, answers: Answers, target: Tensor) -> Tensor:
        r"""Cross-entropies of branches and ensemble, and the distillation of the ensemble into each branch.

        .. math:: \sum_b CE(z_b, y) + CE(z_e, y) + \rho T^2 \sum_b KL(z_e / T \,\|\, z_b / T)

        Args:
            answers: Logits of all, ``(branches, batch, classes)``.
            target: Class indices, ``(batch,)``.

        Returns:
            A scalar.
        """
        losses = [cross_entropy(answers.ensemble, target)]
        for logits in answers.branches:
            losses.append(cross_entropy(logits, target))
            losses.append(self.distilled * distillation(logits, answers.ensemble, self.temperature))
        return torch.stack(losses).sum()

    def target_network(self) -> nn.Sequential:
        """Give the plain residual network that the first branch is; a copy, in the same mode."""
        parts = [*self.shared.named_children(), *self.target.named_children()]
        return copy.deepcopy(nn.Sequential(OrderedDict(parts))).train(self.training)

    def deployed(self) -> nn.Module:
        """Give what predicts when training is over: the target network, or all branches and the gate."""
        if self.predicts == "target":
            return self.target_network()
        return Predicting(self)


class Predicting(nn.Module):
    """An ensemble as a module from images to logits.

    Args:
        ensemble: Its branches.
    """

    def __init__(self, ensemble: NativeEnsemble) -> None:
        super().__init__()
        self.ensemble = ensemble

    def forward(self, x: Tensor) -> Tensor:
        """Classify images.

        Args:
            x: ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``.
        """
        return self.ensemble.predict(x)


class EnsembleStage(Whole):
    """All branches learn, and without labels only who predicts is computed.

    Args:
        ensemble: The branches.
    """

    module: NativeEnsemble

    def __init__(self, ensemble: NativeEnsemble) -> None:
        super().__init__(ensemble, ensemble.loss, ensemble.answer)

    def through(self, x: Tensor, choice: int = 0) -> Tensor:
        """Predict; see `Stage.through`."""
        return self.module.predict(x)


class EnsembleNetwork(WholeNetwork):
    """A `NativeEnsemble` as a network of one stage.

    Args:
        ensemble: The branches.
        in_shape: Of one sample, without the batch.
    """

    model: NativeEnsemble

    def __init__(self, ensemble: NativeEnsemble, in_shape: tuple[int, ...]) -> None:
        super().__init__(ensemble, in_shape, ensemble.loss, ensemble.answer)

    @property
    def stages(self) -> StageRow:
        """The one stage; see `WholeNetwork.stages`."""
        return StageRow([EnsembleStage(self.model)])
