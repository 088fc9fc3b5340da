"""Early exit: an image leaves as soon as an exit is sure enough, and nothing more of it is computed."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.analysis.cost import count_inference
from primenet_lightning.analysis.exits import record_exits
from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.baselines.msdnet.budgeted import BudgetedExits
from primenet_lightning.baselines.multi_exit import MultiExit
from primenet_lightning.nn.exits.costs import ExitRecord, exit_costs, spent
from primenet_lightning.nn.exits.local import LocalExits
from primenet_lightning.nn.exits.network import ExitNetwork, classify
from primenet_lightning.nn.exits.stage import ExitsNetwork
from primenet_lightning.nn.exits.thresholds import LEAVES, check_thresholds, thresholds_of_budget
from primenet_lightning.nn.exits.tolerance import thresholds_of_tolerance
from primenet_lightning.nn.network import StagedNetwork
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.serving.networks import refuse_untraceable
from primenet_lightning.training.learner import LocalLearner

Batches = Iterable[tuple[Tensor, Tensor]]
"""Images, ``(batch, channels, height, width)``, and class indices, ``(batch,)``."""


class EarlyAnswers(NamedTuple):
    """What images got, and what it took.

    Attributes:
        logits: Of the exit where each image left, ``(batch, classes)``.
        exits: Index of that exit, int64 ``(batch,)``.
        multiply_adds: Really spent on all images together, with the classifiers of the exits that they passed.
    """

    logits: Tensor
    exits: Tensor
    multiply_adds: int


USUAL = 0.9
"""Largest softmax probability that is sure enough, where nobody has said or found another."""


class EarlyExit(metaclass=CheckedArguments):
    """A trained network whose images leave as soon as an exit is sure enough.

    Exits are the local classifiers of a `PrimeNet` stack or of a `CutNet`, which were trained anyway, or those of
    `MSDNet`, `IMTA` and `MultiExit`. After each exit the batch is compacted: of images that have left nothing more is
    computed.

    Args:
        model: A trained model; put into evaluation mode. Its own modules are used, not copied.
        thresholds: One an exit, or one for all: an image leaves where its largest softmax probability reaches this; at
            the last exit all leave. Above 1 nobody leaves before the last exit, and the answers are the network's. None
            takes those that the model has found for its budget, or was given; without any 0.9.
        at: Indices of the stages with exits, of a `PrimeNet` or a `CutNet`: of the others the classifiers are not
            computed. None takes all.

    Attributes:
        model: As given.
        at: As given.
        exits: The network as one of several exits.
        costs: Multiply-adds of an image that leaves at each exit, counted as `count_cost` does.
        full_cost: Multiply-adds of an image in the network as it is, without exits on its way.
        thresholds: One an exit; may be set.

    Raises:
        ValueError: If the model has no exits, or the thresholds do not fit them.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> early = EarlyExit(PrimeNet(depth=2), thresholds=0.12)
        >>> answers = early.classify(torch.randn(8, 1, 8, 8))
        >>> answers.multiply_adds == sum(early.costs[exit] for exit in answers.exits)
        True
    """

    def __init__(
        self, model: LocalLearner, thresholds: float | Sequence[float] | None = None, at: Sequence[int] | None = None
    ) -> None:
        self.model = model.eval()
        self.at = at
        self.exits = exits_of(model, model.network, at)
        if thresholds is None:
            thresholds = own_thresholds(model)
        if isinstance(thresholds, int | float):
            thresholds = [float(thresholds)] * self.exits.num_exits
        if len(thresholds) == self.exits.num_exits - 1:
            thresholds = [*thresholds, LEAVES]
        check_thresholds(thresholds, self.exits.num_exits)
        self.thresholds = list(thresholds)
        self.costs = exit_costs(self.exits, model.in_shape)
        self.full_cost = count_inference(model.network)

    @classmethod
    def calibrated(
        cls,
        model: LocalLearner,
        held_out: Batches,
        budget: float | None = None,
        tolerance: float | None = None,
        at: Sequence[int] | None = None,
    ) -> "EarlyExit":
        """Find the thresholds on held-out images: of a budget, or of a loss of accuracy that is tolerated.

        Args:
            model: A trained model.
            held_out: Batches of images, ``(batch, channels, height, width)``, and class indices, ``(batch,)``. They
                were not trained on, nor are tested on: a validation split. Of images that were trained on exits are too
                sure, and the thresholds too low.
            budget: Mean multiply-adds of an image.
            tolerance: Points of error, in %, that may be lost against the last exit, on these images.
            at: As of the class; None chooses for a tolerance, and takes all for a budget.

        Returns:
            With these thresholds.

        Raises:
            ValueError: If both or none of the two are given, if the budget is below the first exit's cost, or as the
                class.

        Example:
            >>> from primenet_lightning import PrimeNet
            >>> held_out = [(torch.randn(64, 1, 8, 8), torch.arange(64) % 10)]
            >>> early = EarlyExit.calibrated(PrimeNet(depth=2), held_out, budget=200_000)
            >>> answers = early.classify(held_out[0][0])
            >>> answers.multiply_adds / 64 < 200_000 + 2 * (early.costs[-1] - early.costs[0]) / 64
            True
        """
        if (budget is None) == (tolerance is None):
            raise ValueError(f"budget={budget} and tolerance={tolerance}: give one of the two")
        early = cls(model, USUAL, at)
        record = record_exits(early.exits, early._prepared(held_out))
        if tolerance is None:
            assert budget is not None
            early.thresholds = thresholds_of_budget(record.confidence, early.costs, budget)
            return early
        if at is not None or not isinstance(early.exits, LocalExits):
            early.thresholds = thresholds_of_tolerance(record.confidence, record.wrong, early.costs, tolerance)
            return early
        at, thresholds = early._best_exits(record, tolerance)
        return cls(model, thresholds, at)

    def _best_exits(self, record: ExitRecord, tolerance: float) -> tuple[list[int], list[float]]:
        """Choose exits, too: a classifier costs something for those who do not leave by it."""
        best: tuple[list[int], list[float]] = ([], [LEAVES])
        least = float("inf")
        on_the_way = self.exits.num_exits - 1
        for at in choices_of_exits(on_the_way):
            costs = exit_costs(exits_of(self.model, self.model.network, at), self.model.in_shape)
            confidence, wrong = record.confidence[[*at, on_the_way]], record.wrong[[*at, on_the_way]]
            thresholds = thresholds_of_tolerance(confidence, wrong, costs, tolerance)
            multiply_adds = spent(confidence, wrong, costs, thresholds).multiply_adds
            if multiply_adds < least:
                best, least = (at, thresholds), multiply_adds
        return best

    def _prepared(self, batches: Batches) -> Iterator[tuple[Tensor, Tensor]]:
        for images, target in batches:
            yield self.model.images_and_target((images, target))

    @torch.no_grad()
    def classify(self, images: Tensor) -> EarlyAnswers:
        """Classify images.

        Args:
            images: Normalised, or pixels of uint8, ``(batch, channels, height, width)``.

        Returns:
            Logits, ``(batch, classes)``, where each image left, and what it took.

        Raises:
            ValueError: If there are not as many thresholds as exits.
        """
        logits, exits = classify(self.exits, self.model.images_of(images), self.thresholds)
        left = torch.bincount(exits, minlength=len(self.costs)).tolist()
        multiply_adds = sum(count * cost for count, cost in zip(left, self.costs, strict=True))
        return EarlyAnswers(logits, exits, multiply_adds)

    def export(self, folder: str | Path, dtype: str = "float32") -> Path:
        """Write one ONNX file a part, from an exit to the next, with the thresholds and what runs them.

        ``python run.py`` in there classifies image files with onnxruntime and numpy alone; `OnnxClassifier` is the same
        from Python.

        Args:
            folder: Where to write; must not be there yet.
            dtype: ``"float32"`` or ``"float16"``.

        Returns:
            The folder.

        Raises:
            FileExistsError: If it is there.
            ValueError: If a part cannot be exported, or a library is missing.
        """
        from primenet_lightning.serving.parts import export_parts

        return export_parts(self, folder, dtype)


def choices_of_exits(count: int) -> list[list[int]]:
    """List which exits may be there: all choices of a few, of many none, each one alone, and all.

    Args:
        count: Exits on the way, the last one not included.

    Returns:
        Indices of exits, in lists.

    Example:
        >>> choices_of_exits(2)
        [[], [0], [1], [0, 1]]
    """
    sizes = range(count + 1) if count <= 4 else (0, 1, count)
    chosen: list[list[int]] = []
    for size in sizes:
        chosen += [list(each) for each in itertools.combinations(range(count), size)]
    return chosen


def exits_of(model: LocalLearner, network: StagedNetwork, at: Sequence[int] | None = None) -> ExitNetwork:
    """See a model as a network of several exits.

    Args:
        model: A trained one.
        network: Its own, or a copy of it.
        at: Stages with exits; None takes all.

    Returns:
        Its exits.

    Raises:
        ValueError: If it has none, or none to choose among.
    """
    refuse_untraceable(model)
    if isinstance(model, BudgetedExits | MultiExit):
        if at is not None:
            raise ValueError(f"at={list(at)} chooses among local classifiers, and a {type(model).__name__} has none")
        assert isinstance(network, ExitsNetwork | WholeNetwork)
        exits: ExitNetwork = network.model  # type: ignore[assignment]
        return exits
    return LocalExits(network, at).eval()


def own_thresholds(model: LocalLearner) -> float | Sequence[float]:
    """Give the thresholds that a model leaves by.

    Args:
        model: A trained one.

    Returns:
        Those that it found for its budget, or the one that it was given; `USUAL` of a model that has none.

    Raises:
        ValueError: If it has a budget, but no thresholds for it.
    """
    if isinstance(model, BudgetedExits) and model.budget is not None and model.thresholds is None:
        raise model.without_thresholds()
    if isinstance(model, BudgetedExits) and model.thresholds is not None:
        return model.thresholds
    return model.threshold if isinstance(model, MultiExit) else USUAL


def module_of(exits: ExitNetwork) -> nn.Module:
    """Take exits for the module that they are.

    Args:
        exits: Of a network.

    Returns:
        The same.
    """
    assert isinstance(exits, nn.Module)
    return exits
