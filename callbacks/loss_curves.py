"""Capsule-loss curves: every local loss, the head's, and their total, by batch."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from primenet_lightning.callbacks.figures import new_figure, plain_log_scale, publish, run_folder, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, dict[str, float]]
"""Training batches done so far, and losses by name."""

VALIDATION = "val/loss/"


class CapsuleLossCurves(Callback):
    """Log the capsules' losses by batch, and draw them when the fit ends (figure 5 of the paper).

    The losses come as numbers from `PrimeNet.training_step` and are averaged over the batches since the last
    point: ``self.log`` at every step would cost more than a small network's whole step. Points go to every
    logger as ``train/loss/<name>``, each ``log_every_n_steps`` batches and at the end of each epoch, on
    Lightning's own step axis. The picture is ``figures/losses.png``, and an image in W&B and TensorBoard.
    `PrimeNet` attaches this callback by itself.

    Args:
        folder: Where ``figures/losses.png`` goes; None takes the folder of the first logger, or without
            loggers the Trainer's ``default_root_dir``.

    Attributes:
        train: The points so far.
        validation: The losses of each validation, where there are any.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CapsuleLossCurves()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | Path | None = None) -> None:
        self.folder = folder
        self.train: list[Point] = []
        self.validation: list[Point] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the running mean, and log that when it is time."""
        if not isinstance(outputs, Mapping) or "losses" not in outputs:
            return  # another module, which has no capsules
        sums = self._sums
        for name, value in outputs["losses"].items():
            sums[name] = sums.get(name, 0.0) + value
        self._count += 1
        if 0 < trainer.log_every_n_steps <= self._count:  # type: ignore[attr-defined]
            self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is left of the epoch."""
        self._flush(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Remember the losses of a validation in the fit."""
        if trainer.state.fn != "fit" or trainer.sanity_checking:
            return
        metrics = trainer.callback_metrics.items()
        losses = {key.removeprefix(VALIDATION): float(value) for key, value in metrics if key.startswith(VALIDATION)}
        if losses:
            self.validation.append((trainer.fit_loop.total_batch_idx + 1, losses))

    def _flush(self, trainer: Trainer) -> None:
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        # the loggers' axis counts batches, from 0; global_step would be behind where gradients accumulate
        step = trainer.fit_loop.total_batch_idx
        self.train.append((step + 1, means))
        metrics = {f"train/loss/{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=step)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of an interrupted run."""
        if isinstance(exception, KeyboardInterrupt) and trainer.state.fn == "fit":
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        folder = run_folder(trainer) if self.folder is None else Path(self.folder)
        if not self.train or not trainer.is_global_zero or trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        figure = new_figure(8, 3.6)
        curves = [("training, mean since the point before", self.train), ("validation", self.validation)]
        curves = [(title, points) for title, points in curves if points]
        all_axes = figure.subplots(1, len(curves), sharey=True, squeeze=False)[0]
        for axes, (title, points) in zip(all_axes, curves, strict=True):
            _plot(axes, points, title)
        all_axes[0].set_ylabel("cross-entropy (nats)")
        # beside the axes, where many capsules hide no curve
        handles, labels = all_axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=3.2)
        publish(figure, "losses", trainer, folder)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, so that those of a resumed run are whole."""
        return {
            "train": self.train,
            "validation": self.validation,
            "sums": dict(self._sums),
            "count": self._count,
        }

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the curves of the run that is resumed."""
        self.train = list(state_dict["train"])
        self.validation = list(state_dict["validation"])
        self._sums = dict(state_dict["sums"])
        self._count = state_dict["count"]


def _plot(axes: "Axes", points: list[Point], title: str) -> None:
    names = list(points[-1][1])
    for name in names:
        axes.plot(
            [batches for batches, _ in points],
            [losses[name] for _, losses in points],
            label=name,
            markersize=4,
            markevery=max(1, len(points) // 12),
            linewidth=1.2,
            **style_of(name, names),
        )
    plain_log_scale(axes)
    axes.set_xlabel("training batches")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, linewidth=0.5)
