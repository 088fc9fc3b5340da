"""Who sends losses backward in a fit: Lightning, where it does more than autograd, else autograd itself."""

from collections.abc import Callable

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.precision import MixedPrecision, Precision
from lightning.pytorch.strategies import SingleDeviceStrategy
from lightning.pytorch.utilities.model_helpers import is_overridden
from torch import Tensor

HOOKS = ("on_before_backward", "on_after_backward")
METHODS = ("manual_backward", "backward", *HOOKS)


def backward_of(model: LightningModule, trainer: Trainer) -> Callable[[Tensor], None]:
    """Choose what sends a loss backward: Lightning's way costs a tenth of a millisecond each time, once per stage.

    Args:
        model: That is fitted.
        trainer: Whose precision, strategy and callbacks are looked at.

    Returns:
        What takes a loss, a scalar: ``model.manual_backward``, which scales fp16's losses and calls hooks; or where
        nothing is to be scaled and nobody has such a hook, `torch.autograd.backward`.

    Example:
        >>> from primenet_lightning import PrimeNet
        >>> model, trainer = PrimeNet(num_classes=3), Trainer(accelerator="cpu", logger=False)
        >>> backward_of(model, trainer) is torch.autograd.backward
        True
    """
    if _only_calls_autograd(model, trainer):
        return torch.autograd.backward
    return model.manual_backward


def _only_calls_autograd(model: LightningModule, trainer: Trainer) -> bool:
    precision = trainer.precision_plugin
    if type(trainer.strategy) is not SingleDeviceStrategy or type(precision) not in (Precision, MixedPrecision):
        return False
    if getattr(precision, "scaler", None) is not None:
        return False
    if any(is_overridden(method, model, LightningModule) for method in METHODS):
        return False
    return not any(_listens(callback) for callback in trainer.callbacks)  # type: ignore[attr-defined]


def _listens(callback: Callback) -> bool:
    return any(is_overridden(hook, callback) for hook in HOOKS)
