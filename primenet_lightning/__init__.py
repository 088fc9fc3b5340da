"""Image networks trained without end-to-end backpropagation, as PyTorch Lightning modules."""

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
from primenet_lightning.losses import LocalLoss
from primenet_lightning.module import PrimeNet
from primenet_lightning.network import PrimeNetwork
from primenet_lightning.optimizers import CompositeOptimizer, PaperAdam
from primenet_lightning.presets import Architecture, architecture
from primenet_lightning.routers import Router
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
    "LocalLoss",
    "NonFiniteError",
    "PaperAdam",
    "PooledClassifier",
    "PrimeBlock",
    "PrimeNet",
    "PrimeNetwork",
    "Projection",
    "Router",
    "architecture",
    "collect_local_losses",
    "conv_capsules",
    "count_cost",
    "count_module",
    "local_targets",
]
