"""Capsule-loss curves: every local loss, the head's, and their total, by batch and by epoch; and the accuracies."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import LightningModule, Trainer

from primenet_lightning.callbacks.figures import (
    DrawnAtTheEnd,
    curves_in,
    new_figure,
    plain_log_scale,
    publish,
    publish_series,
    style_of,
)
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.losses import CrossEntropy
from primenet_lightning.nn.stages import HEAD

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Point = tuple[int, dict[str, float]]
"""Training batches done so far, and losses by name."""

TRAIN, VALIDATION = "train/", "val/"


class CapsuleLossCurves(DrawnAtTheEnd):
    """Log the capsules' losses and accuracies, and draw them when the fit ends (figure 5 of the paper).

    The losses come as numbers from `PrimeNet.training_step`, and are averaged over the batches since the last point:
    ``self.log`` at every step would cost more than a small network's whole step. Points go to every logger as
    ``train/loss/<name>``, each ``log_every_n_steps`` batches and at the end of each epoch, on Lightning's own step
    axis; the mean of each epoch as ``train/epoch_loss/<name>``. Validation losses and all accuracies are logged by
    `PrimeNet` and taken from there. The pictures are ``figures/losses.png`` and ``figures/accuracy.png``, images in
    W&B and TensorBoard, and in W&B also a line series, ``charts/losses``. `PrimeNet` attaches this callback by itself.

    Args:
        folder: Where ``figures/`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.

    Attributes:
        train: The points so far.
        validation: The losses of each validation, where there are any.
        epochs: The mean losses of each epoch.
        train_accuracy: Each learner's accuracy in the training of each epoch, in [0, 1].
        validation_accuracy: And in each validation.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CapsuleLossCurves()], logger=False, enable_checkpointing=False)
    """

    SERIES = ("train", "validation", "epochs", "train_accuracy", "validation_accuracy")

    def __init__(self, folder: str | Path | None = None) -> None:
        super().__init__(folder)
        self.train: list[Point] = []
        self.validation: list[Point] = []
        self.epochs: list[Point] = []
        self.train_accuracy: list[Point] = []
        self.validation_accuracy: list[Point] = []
        self._sums: dict[str, float] = {}
        self._count = 0
        self._epoch_sums: dict[str, float] = {}
        self._epoch_count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the running mean, and log that when it is time."""
        if not isinstance(outputs, Mapping) or "losses" not in outputs:
            return  # another module, which has no capsules
        if self._sums and self._sums.keys() != outputs["losses"].keys():
            # a capsule was pruned before this batch; what it had is a mean over its own batches
            self._flush(trainer, trainer.fit_loop.total_batch_idx - 1)
        sums = self._sums
        for name, value in outputs["losses"].items():
            sums[name] = sums.get(name, 0.0) + value
        self._count += 1
        if 0 < trainer.log_every_n_steps <= self._count:  # type: ignore[attr-defined]
            self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is left of the epoch, and its means."""
        self._flush(trainer)
        if not self._epoch_count:
            return
        sums = _without_pruned(pl_module, self._epoch_sums)
        means = {name: total / self._epoch_count for name, total in sums.items()}
        self._epoch_sums, self._epoch_count = {}, 0
        batches = trainer.fit_loop.total_batch_idx + 1
        self.epochs.append((batches, means))
        self._log(trainer, "train/epoch_loss/", means, trainer.fit_loop.total_batch_idx)
        if isinstance(pl_module, PrimeNet):
            results = {f"{TRAIN}{name}": value for name, value in pl_module.train_results().items()}
            self.train_accuracy.append((batches, _accuracies(results, TRAIN)))

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the losses and accuracies of a validation in the fit."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        # the Trainer still has the last metrics of capsules that were pruned
        metrics = _without_pruned(pl_module, trainer.callback_metrics)
        batches = trainer.fit_loop.total_batch_idx + 1
        losses = {
            key.removeprefix(f"{VALIDATION}loss/"): float(value)
            for key, value in metrics.items()
            if key.startswith(f"{VALIDATION}loss/")
        }
        if losses:
            self.validation.append((batches, losses))
        if accuracies := _accuracies(metrics, VALIDATION):
            self.validation_accuracy.append((batches, accuracies))

    def _flush(self, trainer: Trainer, last: int | None = None) -> None:
        """Make a point of the batches since the last one, up to this batch or the one of an index."""
        if not self._count:
            return
        last = trainer.fit_loop.total_batch_idx if last is None else last
        means = {name: total / self._count for name, total in self._sums.items()}
        for name, total in self._sums.items():
            self._epoch_sums[name] = self._epoch_sums.get(name, 0.0) + total
        self._epoch_count += self._count
        self._sums, self._count = {}, 0
        self.train.append((last + 1, means))
        self._log(trainer, "train/loss/", means, last)

    def _log(self, trainer: Trainer, prefix: str, means: Mapping[str, float], step: int) -> None:
        """Log at a step of the loggers' axis, which counts batches from 0; ``global_step`` counts windows."""
        metrics = {f"{prefix}{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=step)

    def _draw(self, trainer: Trainer) -> None:
        folder = self.folder_to_draw_in(trainer)
        if not self.train or folder is None:
            return
        before = "training, mean since the point before"
        figure = _panels([(before, self.train), ("validation", self.validation)], _unit(trainer), log=True)
        publish(figure, "losses", trainer, folder)
        percent = [
            (title, [(batches, {name: 100 * value for name, value in values.items()}) for batches, values in points])
            for title, points in (
                ("training, mean of the epoch", self.train_accuracy),
                ("validation", self.validation_accuracy),
            )
        ]
        if any(points for _, points in percent):
            publish(_panels(percent, "accuracy (%)", log=False), "accuracy", trainer, folder)
        publish_series("losses", "training batches", self.train, trainer)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, so that those of a resumed run are whole."""
        return {name: list(getattr(self, name)) for name in self.SERIES} | {
            "sums": dict(self._sums),
            "count": self._count,
            "epoch_sums": dict(self._epoch_sums),
            "epoch_count": self._epoch_count,
        }

    def _take_over(self, state_dict: Mapping[str, Any]) -> None:
        for name in self.SERIES:
            setattr(self, name, list(state_dict[name]))
        self._sums, self._count = dict(state_dict["sums"]), state_dict["count"]
        self._epoch_sums, self._epoch_count = dict(state_dict["epoch_sums"]), state_dict["epoch_count"]


def _without_pruned(pl_module: LightningModule, values: Mapping[str, Any]) -> Mapping[str, Any]:
    return pl_module.without_pruned(values) if isinstance(pl_module, PrimeNet) else values


def _unit(trainer: Trainer) -> str:
    """What the losses are."""
    model = trainer.lightning_module
    others = isinstance(model, PrimeNet) and any(
        not isinstance(capsule.loss, CrossEntropy | None)
        for block in model.network.prime_blocks
        for capsule in block.in_order
    )
    return "local loss; the head's cross-entropy (nats)" if others else "cross-entropy (nats)"


def _accuracies(metrics: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """By learner, from ``<prefix>accuracy/<name>`` and, of the head, ``<prefix>accuracy``; the head comes last."""
    start = f"{prefix}accuracy"
    found = {key: float(value) for key, value in metrics.items() if key == start or key.startswith(f"{start}/")}
    head = found.pop(start, None)
    named = {key.removeprefix(f"{start}/"): value for key, value in found.items()}
    return named if head is None else named | {HEAD: head}


def _panels(curves: Sequence[tuple[str, list[Point]]], label: str, log: bool) -> "Figure":
    """Curves side by side, those without a point left out, with one legend beside them, where it hides no curve."""
    curves = [(title, points) for title, points in curves if points]
    figure = new_figure(8, 3.6)
    all_axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
    for axes, (title, points) in zip(all_axes, curves, strict=True):
        _plot(axes, points, title)
        if log:
            plain_log_scale(axes)
    all_axes[0].set_ylabel(label)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=3.2)
    return figure


def _plot(axes: "Axes", points: list[Point], title: str) -> None:
    # a capsule that is pruned has a curve until then
    names = curves_in(points)
    for name in names:
        mine = [(batches, losses[name]) for batches, losses in points if name in losses]
        axes.plot(
            *zip(*mine, strict=True),
            label=name,
            markersize=4,
            markevery=max(1, len(mine) // 12),
            linewidth=1.2,
            **style_of(name, names),
        )
    axes.set_xlabel("training batches")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, linewidth=0.5)
