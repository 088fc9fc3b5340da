"""Capsule-loss curves: every local loss, the head's, and their total, by batch and by epoch; and the accuracies."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from torch import nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.callbacks.publishing import DrawnAtTheEnd, publish, publish_series
from primenet_lightning.figures.losses import draw_error_rates, draw_losses
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.models.cut import CutNet
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.cutting.neighbours import Averaged
from primenet_lightning.nn.cutting.network import CutNetwork
from primenet_lightning.nn.cutting.objectives import Classified
from primenet_lightning.nn.losses import CrossEntropy
from primenet_lightning.training.loss_log import LossLog


class CapsuleLossCurves(LossLog, DrawnAtTheEnd, metaclass=CheckedArguments):
    """Log the capsules' losses and accuracies, and draw them when the fit ends (figure 5 of the paper).

    The numbers are those of `LossLog`. The pictures are ``figures/losses.png`` and ``figures/error_rates.png``, 100 %
    less the accuracies on a logarithmic axis. They are images in W&B and TensorBoard, and in W&B there is also a line
    series, ``charts/losses``. The command line attaches this callback by itself; `PrimeNet` alone attaches a `LossLog`,
    which draws nothing.

    Args:
        folder: Where ``figures/`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        figure_format: Kind of the files: ``"png"``, ``"svg"`` or ``"pdf"``, which comes with a PNG beside it.

    Attributes:
        train: The points so far.
        validation: The losses of each validation, where there are any.
        epochs: The mean losses of each epoch.
        train_accuracy: Each learner's accuracy in the training of each epoch, in [0, 1].
        validation_accuracy: And in each validation.

    Example:
        >>> from lightning.pytorch import LightningModule, Trainer
        >>> trainer = Trainer(callbacks=[CapsuleLossCurves()], logger=False, enable_checkpointing=False)
    """

    def __init__(self, folder: str | Path | None = None, figure_format: FigureFormat = "png") -> None:
        LossLog.__init__(self)
        DrawnAtTheEnd.__init__(self, folder, figure_format)

    def _draw(self, trainer: Trainer) -> None:
        folder = self.folder_to_draw_in(trainer)
        if not self.train or folder is None:
            return
        figure = draw_losses(self.train, self.validation, _unit(trainer))
        publish(figure, "losses", trainer, folder, self.figure_format)
        if self.train_accuracy or self.validation_accuracy:
            figure = draw_error_rates(self.train_accuracy, self.validation_accuracy)
            publish(figure, "error_rates", trainer, folder, self.figure_format)
        publish_series("losses", "training batches", self.train, trainer)


def _unit(trainer: Trainer) -> str:
    """What the losses are."""
    if _cross_entropy_everywhere(trainer.lightning_module):
        return "cross-entropy (nats)"
    return "local loss; the head's cross-entropy (nats)"


def _cross_entropy_everywhere(model: LightningModule) -> bool:
    """Whether every learner has the loss that the head has."""
    if isinstance(model, PrimeNet):
        capsules = [capsule for block in model.network.prime_blocks for capsule in block.in_order]
        return all(isinstance(capsule.loss, CrossEntropy | None) for capsule in capsules)
    if isinstance(model, CutNet) and isinstance(model.network, CutNetwork):
        return all(_is_cross_entropy(objective) for objective in model.network.objectives)
    return True


def _is_cross_entropy(objective: nn.Module) -> bool:
    """Whether a part learns from the cross-entropy of its classifier alone."""
    if isinstance(objective, Averaged):
        objective = objective.objective
    return isinstance(objective, Classified)
