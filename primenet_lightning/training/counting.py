"""What is counted of every learner over one split."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torchmetrics import MeanMetric, Metric
from torchmetrics.classification import MulticlassAccuracy

from primenet_lightning.nn.names import HEAD

COUNT_EVERY = 100
"""Batches whose training answers are kept until torchmetrics counts them, all at once."""


class LearnerMetrics(nn.Module):
    """Accuracy, error and mean loss of every capsule and of the head, counted by torchmetrics.

    Args:
        names: The learners' names, ``"block0.k3"``, ..., ``"head"``.
        num_classes: Number of classes.

    Example:
        >>> metrics = LearnerMetrics(["block0.k3", "head"], num_classes=2)
        >>> wrong, right = torch.tensor([1, 1, 1, 1]), torch.tensor([0, 0, 0, 1])
        >>> metrics.update({"block0.k3": wrong, "head": right}, target=torch.tensor([0, 0, 0, 1]))
        >>> {name: value.item() for name, value in metrics.compute().items()}
        {'accuracy/block0.k3': 0.25, 'error/block0.k3': 75.0, 'accuracy': 1.0, 'error': 0.0}
    """

    def __init__(self, names: Sequence[str], num_classes: int) -> None:
        super().__init__()
        self.names = list(names)
        # labels are checked on the CPU, or by the data module that loads them; a look at them on a GPU waits for it
        self.accuracies = nn.ModuleDict(
            {_key(name): MulticlassAccuracy(num_classes, average="micro", validate_args=False) for name in names}
        )
        self.losses = nn.ModuleDict({_key(name): MeanMetric() for name in [*names, "total"]})

    def update(self, answers: Mapping[str, Tensor], target: Tensor, losses: Mapping[str, Tensor] | None = None) -> None:
        """Count a batch.

        Args:
            answers: By learner, logits ``(batch, classes)`` or classes ``(batch,)``.
            target: Class indices, ``(batch,)``.
            losses: Means over the batch, scalars, by learner and ``"total"``.
        """
        for name, answer in answers.items():
            _metric(self.accuracies, name).update(answer, target)
        for name, loss in (losses or {}).items():
            _metric(self.losses, name).update(loss, weight=len(target))

    def compute(self) -> dict[str, Tensor]:
        """What was counted since the last reset.

        Returns:
            Scalars: ``accuracy`` in [0, 1] and ``error`` in % of the head, ``accuracy/<name>`` and ``error/<name>`` of
            the others, ``loss/<name>`` in nats of all; only what was counted.
        """
        results: dict[str, Tensor] = {}
        for name in self.names:
            metric, suffix = _metric(self.accuracies, name), "" if name == HEAD else f"/{name}"
            if metric.update_called:
                accuracy = metric.compute()
                results |= {f"accuracy{suffix}": accuracy, f"error{suffix}": 100 * (1 - accuracy)}
        for name in [*self.names, "total"]:
            metric = _metric(self.losses, name)
            if metric.update_called:
                results[f"loss/{name}"] = metric.compute()
        return results

    def counts(self) -> dict[str, dict[str, Tensor]]:
        """What this rank has counted of each learner's answers, on the CPU; for a checkpoint in the middle of an epoch.

        Returns:
            By learner, torchmetrics' own states, which are sums, int64 ``(1,)``.
        """
        return {
            name: {key: torch.as_tensor(value).detach().cpu().clone() for key, value in metric.metric_state.items()}
            for name, metric in ((name, _metric(self.accuracies, name)) for name in self.names)
            if metric.update_called
        }

    def set_counts(self, counts: Mapping[str, Mapping[str, Tensor]]) -> None:
        """Go on from what was counted.

        Args:
            counts: From `counts`, ``(1,)`` each; of several ranks, their sum.
        """
        for name, states in counts.items():
            metric = _metric(self.accuracies, name)
            for key, value in states.items():
                setattr(metric, key, value.to(metric.device))

    def reset(self) -> None:
        """Forget everything."""
        for metric in [*self.accuracies.values(), *self.losses.values()]:
            assert isinstance(metric, Metric)
            metric.reset()


def losses_last(results: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Put results in the order of `LearnerMetrics.compute`, those of several being put together.

    Args:
        results: Scalars by name.

    Returns:
        The same scalars, accuracies and errors first.
    """
    accuracies = {name: value for name, value in results.items() if not name.startswith("loss/")}
    losses = {name: value for name, value in results.items() if name.startswith("loss/")}
    return accuracies | losses


def _key(name: str) -> str:
    """Name of a metric's module, which may not hold dots."""
    return name.replace(".", "/")


def _metric(metrics: nn.ModuleDict, name: str) -> Metric:
    metric = metrics[_key(name)]
    assert isinstance(metric, Metric)
    return metric


class LateCounting:
    """Counts what learners answered in training, many batches at a time: once per batch would cost more than the batch.

    Args:
        metrics: Which count.
    """

    def __init__(self, metrics: LearnerMetrics) -> None:
        self.metrics = metrics
        self._waiting: list[tuple[Tensor, Tensor]] = []

    def add(self, names: Sequence[str], answers: Tensor, target: Tensor) -> None:
        """Take the answers of a batch.

        Args:
            names: Of the learners that answered.
            answers: Their classes, int64 ``(learners, batch)``.
            target: Class indices, ``(batch,)``.
        """
        self._waiting.append((answers, target))
        if len(self._waiting) == COUNT_EVERY:
            self.catch_up(names)

    def catch_up(self, names: Sequence[str]) -> None:
        """Count all that waits.

        Args:
            names: Of the learners that answered; they must be the same since the last time.
        """
        if not self._waiting:
            return
        answers = torch.cat([answer for answer, _ in self._waiting], dim=1)
        target = torch.cat([target for _, target in self._waiting])
        self._waiting.clear()
        self.metrics.update(dict(zip(names, answers, strict=True)), target)

    def reset(self) -> None:
        """Forget everything, also what has been counted."""
        self._waiting.clear()
        self.metrics.reset()


class EpochLosses:
    """Losses of an epoch's training batches, averaged over their images; numbers that are the same on every process.

    Example:
        >>> losses = EpochLosses()
        >>> losses.add({"head": 2.0}, images=1)
        >>> losses.add({"head": 1.0}, images=3)
        >>> losses.means()
        {'head': 1.25}
    """

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.images: dict[str, float] = {}

    def add(self, values: Mapping[str, float], images: int) -> None:
        """Take the losses of a batch.

        Args:
            values: Means over the global batch, by learner.
            images: How many it had.
        """
        for name, value in values.items():
            self.sums[name] = self.sums.get(name, 0.0) + value * images
            self.images[name] = self.images.get(name, 0.0) + images

    def means(self) -> dict[str, float]:
        """What the batches since the last reset had on average, by learner."""
        return {name: total / self.images[name] for name, total in self.sums.items()}

    def state_dict(self) -> dict[str, dict[str, float]]:
        """What a checkpoint needs to go on in the middle of an epoch."""
        return {"sums": dict(self.sums), "images": dict(self.images)}

    def load_state_dict(self, state: Mapping[str, Mapping[str, float]]) -> None:
        """Go on from a checkpoint.

        Args:
            state: Of `state_dict`; empty in one of version 0.1.
        """
        self.sums = dict(state.get("sums", {}))
        self.images = dict(state.get("images", {}))

    def reset(self) -> None:
        """Forget everything."""
        self.sums.clear()
        self.images.clear()
