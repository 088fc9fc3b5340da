"""IMTA's second phase (Li et al., ICCV 2019): exits that hear the exit before, and learn from the last one."""

from collections.abc import Sequence
from typing import TypeVar

import torch
from torch import Tensor, nn

from primenet_lightning.baselines.msdnet.network import MSDNetwork
from primenet_lightning.nn.exits.network import ExitModule, State
from primenet_lightning.nn.exits.stage import ExitAnswers
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.systems.distillation import distillation

Network = TypeVar("Network", bound="CollaboratingExits")


class CollaboratingExits(ExitModule):
    r"""New classifiers on the exits of a trained MSDNet, each of which sees the answer of the exit before.

    Exit i classifies its features :math:`\phi_i` and the embedded logits of the exit before,
    :math:`ReLU(BN(W z_{i-1}))`, by a linear layer; the first its features alone. Only these layers learn. The trained
    network is frozen and in evaluation mode, and its own last exit is the teacher.

    Args:
        trained: The network, which is frozen here.
        detached: Whether exits do not learn from the exits behind them, as in the paper; the authors' code lets them.

    Example:
        >>> from primenet_lightning.baselines.msdnet.plan import Plan
        >>> network = CollaboratingExits(MSDNetwork(3, 10, Plan(exits=3)))
        >>> sum(parameter.numel() for parameter in network.parameters() if parameter.requires_grad)
        9758
        >>> [tuple(logits.shape) for logits in network(torch.zeros(2, 3, 32, 32))]
        [(2, 10), (2, 10), (2, 10)]
    """

    def __init__(self, trained: MSDNetwork, detached: bool = True) -> None:
        super().__init__()
        self.trained = trained.requires_grad_(False).eval()
        self.detached = detached
        width, classes = trained.plan.exit_channels, _classes(trained)
        self.embeddings = nn.ModuleList()  # one for each exit but the first
        for _ in range(1, trained.num_exits):
            self.embeddings.append(nn.Sequential(nn.Linear(classes, width), nn.BatchNorm1d(width), nn.ReLU()))
        self.classifiers = nn.ModuleList([nn.Linear(width, classes)])
        for _ in range(1, trained.num_exits):
            self.classifiers.append(nn.Linear(2 * width, classes))

    def train(self: Network, mode: bool = True) -> Network:
        """Switch between training and evaluation; the trained network stays in evaluation."""
        super().train(mode)
        self.trained.eval()
        return self

    @property
    def num_exits(self) -> int:
        """How many exits there are."""
        return self.trained.num_exits

    def answer_all(self, x: Tensor) -> ExitAnswers:
        """Answer at every exit, and let the trained network's own last exit teach.

        Args:
            x: Images, ``(batch, channels, height, width)``.

        Returns:
            The answers.
        """
        state: State = (x,)
        logits: list[Tensor] = []
        for index in range(self.num_exits):
            state, features = self._features(index, state)
            logits.append(self._classify(index, features, logits[-1:]))
        return ExitAnswers(logits, self.trained.classifiers[-1](features))

    def advance(self, exit_index: int, state: State) -> tuple[State, Tensor]:
        """Compute what lies between the exit before and this one, and this exit's answer.

        Args:
            exit_index: Of this exit, from 0.
            state: All maps of each scale, ``(batch, channels, height, width)``, and the logits of the exit before,
                ``(batch, classes)``; at the first exit the images alone.

        Returns:
            The same of this exit, and its logits, ``(batch, classes)``.
        """
        maps, before = (state, ()) if exit_index == 0 else (state[:-1], state[-1:])
        maps, features = self._features(exit_index, maps)
        logits = self._classify(exit_index, features, before)
        return (*maps, logits), logits

    @torch.no_grad()
    def _features(self, exit_index: int, maps: State) -> tuple[State, Tensor]:
        return self.trained.features(exit_index, maps)

    def _classify(self, exit_index: int, features: Tensor, before: Sequence[Tensor]) -> Tensor:
        """An exit's logits, from its features and, but for the first, from the logits of the exit before."""
        if exit_index > 0:
            (heard,) = before
            if self.detached:
                heard = heard.detach()
            features = torch.cat([features, self.embeddings[exit_index - 1](heard)], dim=1)
        logits: Tensor = self.classifiers[exit_index](features)
        return logits

    def parts(self, exit_index: int) -> list[nn.Module]:
        """Name what belongs to an exit: its classifier, its embedding, and its part of the trained network.

        Args:
            exit_index: Of the exit, from 0.

        Returns:
            Modules; those of all exits together have every parameter once.
        """
        own: list[nn.Module] = [self.classifiers[exit_index]]
        if exit_index > 0:
            own.append(self.embeddings[exit_index - 1])
        return [*own, *self.trained.parts(exit_index)]


def _classes(network: MSDNetwork) -> int:
    classifier = network.classifiers[-1]
    assert isinstance(classifier, nn.Linear)
    return classifier.out_features


class OneForAll:
    r"""One teaches all: the last exit learns from the labels, the others from them and from the teacher.

    .. math:: L_i = (1 - \gamma)\, CE(z_i, y) + \gamma\, T^2\, KL(softmax(t / T)\, ||\, softmax(z_i / T))

    KL is summed over the classes and averaged over the batch; the authors' code averages over the classes, too, so that
    its weight is smaller by their number.

    Args:
        weight: :math:`\gamma`, from 0 to 1.
        temperature: T, above 0.

    Raises:
        ValueError: If one of them is impossible.

    Example:
        >>> losses = OneForAll(weight=0.5, temperature=3.0)
        >>> unsure = torch.zeros(2, 4)
        >>> [round(loss.item(), 3) for loss in losses(ExitAnswers([unsure, unsure], unsure), torch.tensor([0, 3]))]
        [0.693, 1.386]
    """

    def __init__(self, weight: float = 0.9, temperature: float = 3.0) -> None:
        if not 0 <= weight <= 1:
            raise ValueError(f"teaching={weight} must be from 0 (the labels alone) to 1 (the teacher alone)")
        if not temperature > 0:
            raise ValueError(f"temperature={temperature} must be above 0; 1 leaves the teacher's answers as they are")
        self.weight = weight
        self.temperature = temperature

    def __call__(self, answers: ExitAnswers, target: Tensor) -> list[Tensor]:
        """Compute the loss of each exit.

        Args:
            answers: Of all exits, and the teacher's.
            target: Class indices, ``(batch,)``.

        Returns:
            Scalars, one an exit.
        """
        assert answers.teacher is not None
        losses: list[Tensor] = []
        for logits in answers.logits[:-1]:
            taught = distillation(logits, answers.teacher, self.temperature)
            losses.append((1 - self.weight) * cross_entropy(logits, target) + self.weight * taught)
        return [*losses, cross_entropy(answers.logits[-1], target)]
