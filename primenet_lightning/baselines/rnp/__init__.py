"""RNP: runtime neural pruning (Lin et al., NIPS 2017), as far as it is known."""

from primenet_lightning.baselines.rnp.backbone import PrunableConvNet
from primenet_lightning.baselines.rnp.curve import BalanceRow, WidthRow, balance_curve, width_curve
from primenet_lightning.baselines.rnp.decisions import DecisionNetwork, Reward
from primenet_lightning.baselines.rnp.model import RNPNet
from primenet_lightning.baselines.rnp.network import PruningNetwork

__all__ = [
    "BalanceRow",
    "DecisionNetwork",
    "PrunableConvNet",
    "PruningNetwork",
    "RNPNet",
    "Reward",
    "WidthRow",
    "balance_curve",
    "width_curve",
]
