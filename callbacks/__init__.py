"""Callbacks that make the learning visible, and keep it safe; each works alone in any Trainer."""

from primenet_lightning.callbacks.averaging import AveragedWeights
from primenet_lightning.callbacks.confusion import ConfusionAndErrors
from primenet_lightning.callbacks.cost_summary import CostSummary
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
from primenet_lightning.callbacks.feature_maps import FeatureMaps
from primenet_lightning.callbacks.filter_pruning import SoftFilterPruning, prune_filters, pruned_multiply_adds
from primenet_lightning.callbacks.lookahead import Lookahead
from primenet_lightning.callbacks.loss_curves import CapsuleLossCurves
from primenet_lightning.callbacks.progress import LossProgressBar
from primenet_lightning.callbacks.routing import RoutingMonitor
from primenet_lightning.callbacks.tsne import FeatureTSNE
from primenet_lightning.training.checkpoints import LastCheckpoint
from primenet_lightning.training.loss_log import LossLog
from primenet_lightning.training.stopping import GracefulStop
from primenet_lightning.training.whitening import WhitenFirstLayer

__all__ = [
    "AveragedWeights",
    "CapsuleLossCurves",
    "ConfusionAndErrors",
    "CostSummary",
    "FeatureMaps",
    "FeatureTSNE",
    "GracefulStop",
    "LastCheckpoint",
    "Lookahead",
    "LossLog",
    "LossProgressBar",
    "ResumableCSVLogger",
    "RoutingMonitor",
    "SoftFilterPruning",
    "WhitenFirstLayer",
    "prune_filters",
    "pruned_multiply_adds",
]
