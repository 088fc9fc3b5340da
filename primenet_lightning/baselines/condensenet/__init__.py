"""CondenseNet (Huang et al., CVPR 2018): learned group convolutions, condensed while they learn, and converted."""

from primenet_lightning.baselines.condensenet.module import CondenseNet as CondenseNet
from primenet_lightning.baselines.condensenet.network import CondenseNetwork as CondenseNetwork
