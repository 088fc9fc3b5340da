"""Image networks trained without end-to-end backpropagation, as PyTorch Lightning modules."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from primenet_lightning.blocks import (
    BlockOutput,
    PrimeBlock,
    Projection,
    collect_local_losses,
    conv_capsules,
    local_targets,
)
from primenet_lightning.capsules import Capsule, ConvCapsule
from primenet_lightning.cost import Cost, count_cost, count_module
from primenet_lightning.end_to_end import EndToEndNetwork
from primenet_lightning.heads import ClassifierHead, FlattenClassifier, PooledClassifier
from primenet_lightning.linear_probe import LinearProbe
from primenet_lightning.losses import LocalLoss
from primenet_lightning.memory import SavedActivations, training_activation_bytes
from primenet_lightning.module import PrimeNet
from primenet_lightning.network import PrimeNetwork
from primenet_lightning.optimizers import CompositeOptimizer, PaperAdam
from primenet_lightning.presets import Architecture, architecture
from primenet_lightning.routers import Router
from primenet_lightning.routing import NonFiniteError

if TYPE_CHECKING:
    from primenet_lightning.features import extract_features, feature_extractor
    from primenet_lightning.probe import fit_probe

__version__ = "0.1.0"

__all__ = [
    "Architecture",
    "BlockOutput",
    "Capsule",
    "ClassifierHead",
    "CompositeOptimizer",
    "ConvCapsule",
    "Cost",
    "EndToEndNetwork",
    "FlattenClassifier",
    "LinearProbe",
    "LocalLoss",
    "NonFiniteError",
    "PaperAdam",
    "PooledClassifier",
    "PrimeBlock",
    "PrimeNet",
    "PrimeNetwork",
    "Projection",
    "Router",
    "SavedActivations",
    "architecture",
    "collect_local_losses",
    "conv_capsules",
    "count_cost",
    "count_module",
    "extract_features",
    "feature_extractor",
    "fit_probe",
    "local_targets",
    "training_activation_bytes",
]

# these read data modules, and with them scikit-learn, which takes half a second
_IMPORTED_LATER = {"extract_features": "features", "feature_extractor": "features", "fit_probe": "probe"}


def __getattr__(name: str) -> Any:
    if name not in _IMPORTED_LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_IMPORTED_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
