"""Lookahead: the weights step ahead, and every few steps slow weights follow and take their place."""

from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.averaging import AveragedWeights, floating_weights
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.training.progress import steps_of_fit
from primenet_lightning.training.refusals import AVERAGES


class Lookahead(Callback, metaclass=CheckedArguments):
    r"""Pull the network's weights back to a slow average of themselves, every few optimizer steps.

    As airbench does (Jordan, 2024; after Zhang et al., "Lookahead Optimizer", 2019): at each :math:`n`-th of the
    :math:`T` steps of the fit, for all floating parameters and buffers of ``pl_module.network``,

    .. math:: a_t = d^n (t / T)^3, \quad \bar w \leftarrow a_t \bar w + (1 - a_t) w, \quad w \leftarrow \bar w

    with :math:`\bar w` the weights at the beginning. Early the weights so move freely, and towards the end they hardly
    leave their average. After the last step the network holds :math:`\bar w`, before the validation and the checkpoint
    that follow, so that test and prediction take it with nothing else to do. Until then validations and checkpoints
    have the weights as they are, at most ``every`` steps ahead; so has a fit that is stopped before its last step. A
    resumed run goes on exactly.

    Parameters go by their names: those that the network loses while it trains are forgotten, and new ones join with
    the value that they have.

    Args:
        every: :math:`n`, optimizer steps from one time to the next.
        decay: :math:`d`, of one step.

    Attributes:
        slow: :math:`\bar w` by name of parameter or buffer, on the weights' device, in at least float32.

    Raises:
        ValueError: If ``every`` is below 1, or the decay is not at least 0 and below 1; in a fit that has no end, that
            is resumed with another number of steps, or that has another callback that averages weights.

    Example:
        >>> round(Lookahead(every=5, decay=0.95).weight_of_slow(step=100, total=200), 4)
        0.0967
    """

    needs_whole_network: ClassVar[bool] = True
    """A pipeline, whose processes have parts of it, refuses it."""

    def __init__(self, every: int = 5, decay: float = 0.95) -> None:
        at_least(1, "step", every=every)
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is out of range; give 0 or more, and less than 1, such as 0.95")
        self.every = every
        self.decay = decay
        self.slow: dict[str, Tensor] = {}
        self._start = 0  # steps that the Trainer had done before this fit
        self._total: int | None = None  # steps of the fit
        self._step = 0  # up to which it has looked

    def weight_of_slow(self, step: int, total: int) -> float:
        """Give what the slow weights keep of themselves.

        Args:
            step: Of the fit, from 1 on.
            total: Steps of the whole fit.

        Returns:
            The share, in [0, 1).
        """
        share: float = self.decay**self.every * (step / total) ** 3
        return share

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit; what is resumed is loaded later.

        Args:
            trainer: Whose other callbacks are looked at.
            pl_module: Not looked at.
            stage: Lightning's; nothing is done but in ``"fit"``.

        Raises:
            ValueError: If another callback averages weights.
        """
        if stage != "fit":
            return
        for callback in trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, (AveragedWeights, *AVERAGES)):
                raise ValueError(
                    f"Lookahead and {type(callback).__name__} both average the weights, one of them in vain; use one "
                    "of the two"
                )
        self.slow, self._total = {}, None
        self._start, self._step = trainer.global_step, 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin with the weights as they are, or go on with those of the run that is resumed.

        Args:
            trainer: In the fit.
            pl_module: Whose network it is about.

        Raises:
            ValueError: If the fit has no end, or another number of steps than that run.
        """
        before = self._total
        window = getattr(pl_module, "accumulate_grad_batches", 1)
        self._total = steps_of_fit(trainer, "Lookahead", window, self._start)
        if before is not None and before != self._total:
            raise ValueError(
                f"the Lookahead of the resumed run was laid out over {before} steps, and this fit has {self._total}; "
                "resume with the same max_epochs, max_steps and data"
            )
        self._follow(floating_weights(pl_module))

    @torch.no_grad()
    def _follow(self, weights: dict[str, Tensor]) -> None:
        """Have slow weights for those that are there, where they are."""
        slow: dict[str, Tensor] = {}
        for name, weight in weights.items():
            before = self.slow.get(name)
            if before is not None and before.shape == weight.shape:
                slow[name] = before.to(weight.device)  # it was loaded before the network went to its device
            else:
                slow[name] = at_least_float32(weight).clone()
        self.slow = slow

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Let the slow weights follow if it is time."""
        self._update(trainer, pl_module)

    @torch.no_grad()
    def _update(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Follow and take place; once per step, whoever asks first.

        A callback before this one may save a checkpoint before this one has seen the batch's end.
        """
        step = trainer.global_step - self._start
        total = self._total
        if total is None or step == self._step:
            return
        self._step = step
        is_time = step % self.every == 0
        if not (is_time or step == total):
            return
        weights = floating_weights(pl_module)
        self._follow(weights)
        if is_time:
            newest = [at_least_float32(weight) for weight in weights.values()]
            slow = list(self.slow.values())
            torch._foreach_lerp_(slow, newest, 1 - self.weight_of_slow(step, total))
        for name, weight in weights.items():
            weight.copy_(self.slow[name])

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save what resuming takes."""
        if trainer.state.fn != "fit":
            return  # the network is what somebody has loaded into it
        self._update(trainer, pl_module)  # in place: the checkpoint's state_dict shares these tensors
        checkpoint["lookahead"] = {"slow": dict(self.slow), "start": self._start, "total": self._total}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with a fit; of one that was saved without this callback the slow weights begin now.

        To look at a checkpoint takes nothing.

        Args:
            trainer: Which is fitting, or not.
            pl_module: Not looked at.
            checkpoint: What was saved.
        """
        if trainer.state.fn != "fit":
            return
        saved = checkpoint.get("lookahead", {"slow": {}, "start": 0, "total": None})
        self.slow = {name: slow.clone() for name, slow in saved["slow"].items()}
        self._start, self._total = saved["start"], saved["total"]
        self._step = checkpoint["global_step"] - self._start
