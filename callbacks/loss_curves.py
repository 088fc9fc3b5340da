"""Capsule-loss curves: every local loss, the head's, and their total, by step."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from lightning.pytorch import Callback, LightningModule, Trainer

from primenet_lightning.callbacks.figures import new_figure, publish, run_folder, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes

Point = tuple[int, dict[str, float]]


class CapsuleLossCurves(Callback):
    """Log the capsules' losses by step, and draw them when the fit ends (figure 5 of the paper).

    The losses come as numbers from `PrimeNet.training_step` and are averaged over the steps since the last point:
    ``self.log`` at every step would cost more than a small network's whole step. Points go to every logger as
    ``train/loss/<name>`` each ``log_every_n_steps`` and at the end of each epoch. The picture is
    ``figures/losses.png`` in the run folder, and an image in W&B and TensorBoard. `PrimeNet` attaches this callback
    by itself.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[CapsuleLossCurves()], logger=False, enable_checkpointing=False)
    """

    def __init__(self) -> None:
        self.train: list[Point] = []
        self.validation: list[Point] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Add the batch to the running mean, and log that when it is time."""
        sums = self._sums
        for name, value in outputs["losses"].items():
            sums[name] = sums.get(name, 0.0) + value
        self._count += 1
        if self._count >= trainer.log_every_n_steps:
            self._flush(trainer)

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log what is left of the epoch, and remember the validation losses that Lightning has by now."""
        self._flush(trainer)
        prefix = "val/loss/"
        losses = {
            key.removeprefix(prefix): float(value)
            for key, value in trainer.callback_metrics.items()
            if key.startswith(prefix)
        }
        if losses:
            self.validation.append((trainer.global_step, losses))

    def _flush(self, trainer: Trainer) -> None:
        if not self._count:
            return
        means = {name: total / self._count for name, total in self._sums.items()}
        self._sums, self._count = {}, 0
        self.train.append((trainer.global_step, means))
        metrics = {f"train/loss/{name}": value for name, value in means.items()}
        for logger in trainer.loggers:
            # global_step counts what is done; the loggers' axis, Lightning's own points included, begins with 0
            logger.log_metrics(metrics | {"epoch": trainer.current_epoch}, step=max(trainer.global_step - 1, 0))

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Draw the curves."""
        self._draw(trainer)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Draw what there is of an interrupted run."""
        if isinstance(exception, KeyboardInterrupt):
            self._draw(trainer)

    def _draw(self, trainer: Trainer) -> None:
        folder = run_folder(trainer)
        if not self.train or not trainer.is_global_zero:
            return
        figure = new_figure(9, 3.8)
        left, right = figure.subplots(1, 2, sharey=True)
        _plot(left, self.train, "training, mean since the point before")
        _plot(right, self.validation, "validation, once an epoch")
        left.set_ylabel("cross-entropy (nats)")
        left.legend(fontsize="small", ncols=max(1, len(self.train[0][1]) // 6))
        publish(figure, "losses", trainer, folder)

    def state_dict(self) -> dict[str, Any]:
        """The curves so far, so that the picture of a resumed run is whole."""
        return {"train": self.train, "validation": self.validation}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the curves of the run that is resumed."""
        self.train = list(state_dict["train"])
        self.validation = list(state_dict["validation"])


def _plot(axes: "Axes", points: list[Point], title: str) -> None:
    names = list(points[-1][1]) if points else []
    for name in names:
        marker = "o" if len(points) <= 30 else ""
        axes.plot(
            [step for step, _ in points],
            [losses[name] for _, losses in points],
            label=name,
            marker=marker,
            markersize=3,
            linewidth=1.2,
            **style_of(name, names),  # type: ignore[arg-type]
        )
    axes.set_yscale("log")
    axes.set_xlabel("optimizer steps")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, which="both", linewidth=0.5)
