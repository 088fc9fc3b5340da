"""RAM (Mnih et al., NIPS 2014), and DT-RAM (Li et al., ICCVW 2017), which stops looking when it has seen enough."""

from primenet_lightning.baselines.dt_ram.curve import ThresholdRow, errors_by_step, threshold_curve
from primenet_lightning.baselines.dt_ram.glimpses import GlimpseSensor
from primenet_lightning.baselines.dt_ram.model import DTRAMNet
from primenet_lightning.baselines.dt_ram.network import AttentionNetwork
from primenet_lightning.baselines.dt_ram.recurrent import RecurrentAttention, StopPolicy

__all__ = [
    "AttentionNetwork",
    "DTRAMNet",
    "GlimpseSensor",
    "RecurrentAttention",
    "StopPolicy",
    "ThresholdRow",
    "errors_by_step",
    "threshold_curve",
]
