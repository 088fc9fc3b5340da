"""Image networks trained without end-to-end backpropagation, as PyTorch Lightning modules.

The names below are imported when they are first used: what is pure torch, like `PrimeBlock`, so never waits for
Lightning, which takes longer to import than torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # for editors and type checkers; `_HOMES` says the same at runtime
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
    from primenet_lightning.features import extract_features, feature_extractor
    from primenet_lightning.heads import ClassifierHead, FlattenClassifier, PooledClassifier, local_classifier
    from primenet_lightning.linear_probe import LinearProbe
    from primenet_lightning.losses import LocalLoss
    from primenet_lightning.memory import SavedActivations, training_activation_bytes
    from primenet_lightning.module import PrimeNet
    from primenet_lightning.network import PrimeNetwork
    from primenet_lightning.optimizers import CompositeOptimizer, PaperAdam
    from primenet_lightning.presets import Architecture, architecture
    from primenet_lightning.probe import fit_probe
    from primenet_lightning.routers import Router, build_router
    from primenet_lightning.routing import NonFiniteError

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
    "build_router",
    "collect_local_losses",
    "conv_capsules",
    "count_cost",
    "count_module",
    "extract_features",
    "feature_extractor",
    "fit_probe",
    "local_classifier",
    "local_targets",
    "training_activation_bytes",
]

_HOMES = {
    "Architecture": "presets",
    "BlockOutput": "blocks",
    "Capsule": "capsules",
    "ClassifierHead": "heads",
    "CompositeOptimizer": "optimizers",
    "ConvCapsule": "capsules",
    "Cost": "cost",
    "EndToEndNetwork": "end_to_end",
    "FlattenClassifier": "heads",
    "LinearProbe": "linear_probe",
    "LocalLoss": "losses",
    "NonFiniteError": "routing",
    "PaperAdam": "optimizers",
    "PooledClassifier": "heads",
    "PrimeBlock": "blocks",
    "PrimeNet": "module",
    "PrimeNetwork": "network",
    "Projection": "blocks",
    "Router": "routers",
    "SavedActivations": "memory",
    "architecture": "presets",
    "build_router": "routers",
    "collect_local_losses": "blocks",
    "conv_capsules": "blocks",
    "count_cost": "cost",
    "count_module": "cost",
    "extract_features": "features",
    "feature_extractor": "features",
    "fit_probe": "probe",
    "local_classifier": "heads",
    "local_targets": "blocks",
    "training_activation_bytes": "memory",
}
"""The module of each name."""

_SUBPACKAGES = ("baselines", "callbacks", "datamodules")


def __getattr__(name: str) -> Any:
    """Import a name's module, or a subpackage, on first use (PEP 562)."""
    if name in _SUBPACKAGES:
        return import_module(f"{__name__}.{name}")
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    globals()[name] = value  # the next use finds it without coming here
    return value


def __dir__() -> list[str]:
    """All names, also of what has not been imported yet."""
    return sorted({*globals(), *__all__, *_SUBPACKAGES})
