"""Image networks trained without end-to-end backpropagation, as PyTorch Lightning modules.

The names below are imported when they are first used: what is pure torch, like `PrimeBlock`, so never waits for
Lightning, which takes longer to import than torch.
"""

import sys
from importlib import import_module
from typing import TYPE_CHECKING, Any

from primenet_lightning import moved
from primenet_lightning.first_use import on_first_use

if TYPE_CHECKING:  # for editors and type checkers; `_HOMES` says the same at runtime
    from primenet_lightning.analysis.cost import Cost, count_cost, count_module
    from primenet_lightning.analysis.features import extract_features, feature_extractor
    from primenet_lightning.analysis.memory import SavedActivations, training_activation_bytes
    from primenet_lightning.analysis.probe import fit_probe
    from primenet_lightning.freed_memory import keep_freed_memory
    from primenet_lightning.models.cut import CutNet
    from primenet_lightning.models.end_to_end import EndToEnd
    from primenet_lightning.models.linear_probe import LinearProbe
    from primenet_lightning.models.prime import PrimeNet
    from primenet_lightning.models.shipped import pretrained, pretrained_names
    from primenet_lightning.nn.classifiers import ClassifierHead, FlattenClassifier, PooledClassifier, local_classifier
    from primenet_lightning.nn.cutting.cut import cut
    from primenet_lightning.nn.cutting.network import CutNetwork
    from primenet_lightning.nn.losses import LocalLoss
    from primenet_lightning.nn.network import StagedNetwork
    from primenet_lightning.nn.numbers import NonFiniteError
    from primenet_lightning.nn.prime.architecture import Architecture, architecture
    from primenet_lightning.nn.prime.block import BlockOutput, PrimeBlock
    from primenet_lightning.nn.prime.capsules import Capsule, ConvCapsule, conv_capsules
    from primenet_lightning.nn.prime.network import PrimeNetwork
    from primenet_lightning.nn.prime.projection import Projection
    from primenet_lightning.nn.prime.router import Router
    from primenet_lightning.nn.prime.routers import build_router
    from primenet_lightning.nn.prime.twin import EndToEndNetwork
    from primenet_lightning.nn.stages import LearnerOutput, Stage
    from primenet_lightning.nn.targets import collect_local_losses, local_targets
    from primenet_lightning.nn.whole import WholeNetwork
    from primenet_lightning.pipeline.strategy import LocalPipeline
    from primenet_lightning.training.adam import PaperAdam
    from primenet_lightning.training.learner import LocalLearner
    from primenet_lightning.training.optimizers import CompositeOptimizer
    from primenet_lightning.training.runner import Rhythm, StageRunner

__version__ = "0.2.0.dev0"

__all__ = [
    "Architecture",
    "BlockOutput",
    "Capsule",
    "ClassifierHead",
    "CompositeOptimizer",
    "ConvCapsule",
    "Cost",
    "CutNet",
    "CutNetwork",
    "EndToEnd",
    "EndToEndNetwork",
    "FlattenClassifier",
    "LearnerOutput",
    "LinearProbe",
    "LocalLearner",
    "LocalLoss",
    "LocalPipeline",
    "NonFiniteError",
    "PaperAdam",
    "PooledClassifier",
    "PrimeBlock",
    "PrimeNet",
    "PrimeNetwork",
    "Projection",
    "Rhythm",
    "Router",
    "SavedActivations",
    "Stage",
    "StageRunner",
    "StagedNetwork",
    "WholeNetwork",
    "architecture",
    "build_router",
    "collect_local_losses",
    "conv_capsules",
    "count_cost",
    "count_module",
    "cut",
    "extract_features",
    "feature_extractor",
    "fit_probe",
    "keep_freed_memory",
    "local_classifier",
    "local_targets",
    "pretrained",
    "pretrained_names",
    "training_activation_bytes",
]

_HOMES = {
    "Architecture": "nn.prime.architecture",
    "BlockOutput": "nn.prime.block",
    "Capsule": "nn.prime.capsules",
    "ClassifierHead": "nn.classifiers",
    "CompositeOptimizer": "training.optimizers",
    "ConvCapsule": "nn.prime.capsules",
    "Cost": "analysis.cost",
    "CutNet": "models.cut",
    "CutNetwork": "nn.cutting.network",
    "EndToEnd": "models.end_to_end",
    "EndToEndNetwork": "nn.prime.twin",
    "FlattenClassifier": "nn.classifiers",
    "LearnerOutput": "nn.stages",
    "LinearProbe": "models.linear_probe",
    "LocalLearner": "training.learner",
    "LocalLoss": "nn.losses",
    "LocalPipeline": "pipeline.strategy",
    "NonFiniteError": "nn.numbers",
    "PaperAdam": "training.adam",
    "PooledClassifier": "nn.classifiers",
    "PrimeBlock": "nn.prime.block",
    "PrimeNet": "models.prime",
    "PrimeNetwork": "nn.prime.network",
    "Projection": "nn.prime.projection",
    "Rhythm": "training.runner",
    "Router": "nn.prime.router",
    "SavedActivations": "analysis.memory",
    "Stage": "nn.stages",
    "StageRunner": "training.runner",
    "StagedNetwork": "nn.network",
    "WholeNetwork": "nn.whole",
    "architecture": "nn.prime.architecture",
    "build_router": "nn.prime.routers",
    "collect_local_losses": "nn.targets",
    "conv_capsules": "nn.prime.capsules",
    "count_cost": "analysis.cost",
    "count_module": "analysis.cost",
    "cut": "nn.cutting.cut",
    "extract_features": "analysis.features",
    "feature_extractor": "analysis.features",
    "fit_probe": "analysis.probe",
    "keep_freed_memory": "freed_memory",
    "local_classifier": "nn.classifiers",
    "local_targets": "nn.targets",
    "pretrained": "models.shipped",
    "pretrained_names": "models.shipped",
    "training_activation_bytes": "analysis.memory",
}
"""The module of each name."""

_SUBPACKAGES = (
    "analysis",
    "baselines",
    "callbacks",
    "commands",
    "datamodules",
    "figures",
    "models",
    "nn",
    "pipeline",
    "runs",
    "serving",
    "training",
)

sys.meta_path.insert(0, moved.Signposts())
_look_up = on_first_use(__name__, _HOMES)


def __getattr__(name: str) -> Any:
    """Import a name's module, or a subpackage, on first use (PEP 562)."""
    if name in _SUBPACKAGES or name in moved.MOVED:
        return import_module(f"{__name__}.{name}")
    value = _look_up(name)
    if name == "LocalLearner":
        import_module(f"{__name__}.pipeline")  # so that a Trainer knows its strategy by name, as with any model
    return value


def __dir__() -> list[str]:
    """All names, also of what has not been imported yet."""
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
