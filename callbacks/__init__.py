"""Callbacks that make the learning visible, and keep it safe; each works alone in any Trainer.

The names below are imported when they are first used: whoever wants `Lookahead` alone needs no library that draws bars.
"""

from typing import TYPE_CHECKING

from primenet_lightning.first_use import on_first_use

if TYPE_CHECKING:  # for editors and type checkers; `_HOMES` says the same at runtime
    from primenet_lightning.callbacks.averaging import AveragedWeights
    from primenet_lightning.callbacks.confusion import ConfusionAndErrors
    from primenet_lightning.callbacks.cost_summary import CostSummary
    from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
    from primenet_lightning.callbacks.cuda_graphs import CUDAGraphs
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
    "CUDAGraphs",
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

_HOMES = {
    "AveragedWeights": "callbacks.averaging",
    "CUDAGraphs": "callbacks.cuda_graphs",
    "CapsuleLossCurves": "callbacks.loss_curves",
    "ConfusionAndErrors": "callbacks.confusion",
    "CostSummary": "callbacks.cost_summary",
    "FeatureMaps": "callbacks.feature_maps",
    "FeatureTSNE": "callbacks.tsne",
    "GracefulStop": "training.stopping",
    "LastCheckpoint": "training.checkpoints",
    "Lookahead": "callbacks.lookahead",
    "LossLog": "training.loss_log",
    "LossProgressBar": "callbacks.progress",
    "ResumableCSVLogger": "callbacks.csv_log",
    "RoutingMonitor": "callbacks.routing",
    "SoftFilterPruning": "callbacks.filter_pruning",
    "WhitenFirstLayer": "training.whitening",
    "prune_filters": "callbacks.filter_pruning",
    "pruned_multiply_adds": "callbacks.filter_pruning",
}
"""The module of each name."""


__getattr__ = on_first_use(__name__, _HOMES)


def __dir__() -> list[str]:
    """All names, also of what has not been imported yet."""
    return sorted({*globals(), *__all__})
