"""What PrimeNet is compared with: networks trained end to end, and the vote of its capsules."""

from primenet_lightning.baselines.condensenet import CondenseNet, CondenseNetwork
from primenet_lightning.baselines.dt_ram import DTRAMNet
from primenet_lightning.baselines.export import export
from primenet_lightning.baselines.msdnet.imta import IMTA
from primenet_lightning.baselines.msdnet.msdnet import MSDNet
from primenet_lightning.baselines.msdnet.network import MSDNetwork
from primenet_lightning.baselines.multi_exit import (
    ExitRow,
    MultiExit,
    MultiExitNetwork,
    exit_costs,
    exit_table,
    exits_taken,
)
from primenet_lightning.baselines.one import NativeEnsemble, OneNet, TargetResNet, residual_network
from primenet_lightning.baselines.one_scale import OneScale, OneScaleNetwork, matching_channels, predicting_parameters
from primenet_lightning.baselines.resnets import CifarResNet20, ResNet20, ResNet50
from primenet_lightning.baselines.rnp import RNPNet
from primenet_lightning.baselines.votes import majority_vote
from primenet_lightning.models.end_to_end import EndToEnd as ImageClassifier

__all__ = [  # noqa: RUF022  in the order of letters
    "CifarResNet20",
    "CondenseNet",
    "CondenseNetwork",
    "DTRAMNet",
    "ExitRow",
    "IMTA",
    "ImageClassifier",
    "MSDNet",
    "MSDNetwork",
    "MultiExit",
    "MultiExitNetwork",
    "NativeEnsemble",
    "OneNet",
    "OneScale",
    "OneScaleNetwork",
    "RNPNet",
    "ResNet20",
    "ResNet50",
    "TargetResNet",
    "exit_costs",
    "exit_table",
    "exits_taken",
    "export",
    "majority_vote",
    "matching_channels",
    "predicting_parameters",
    "residual_network",
]
