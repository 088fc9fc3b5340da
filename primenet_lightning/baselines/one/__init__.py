"""ONE (Lan, Zhu and Gong, NeurIPS 2018): branches of a network that learn from their own ensemble."""

from primenet_lightning.baselines.one.module import OneNet as OneNet
from primenet_lightning.baselines.one.module import TargetResNet as TargetResNet
from primenet_lightning.baselines.one.network import NativeEnsemble as NativeEnsemble
from primenet_lightning.baselines.one.resnet import residual_network as residual_network
