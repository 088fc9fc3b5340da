"""Callbacks that make the learning visible, and keep it safe; each works alone in any Trainer."""

from primenet_lightning.callbacks.checkpoints import LastCheckpoint
from primenet_lightning.callbacks.cost_summary import CostSummary
from primenet_lightning.callbacks.interruption import GracefulStop
from primenet_lightning.callbacks.loss_curves import CapsuleLossCurves
from primenet_lightning.callbacks.progress import LossProgressBar

__all__ = ["CapsuleLossCurves", "CostSummary", "GracefulStop", "LastCheckpoint", "LossProgressBar"]
