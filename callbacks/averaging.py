"""An exponential moving average of the weights, which is what is validated, tested and predicted with."""

import itertools
from typing import Any, ClassVar

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.nn.layers import at_least_float32


class AveragedWeights(Callback, metaclass=CheckedArguments):
    r"""Average the network's weights over the training, and use the average wherever the network is looked at.

    After each optimizer step :math:`\bar w \leftarrow d \, \bar w + (1 - d) \, w`, for all floating parameters and
    buffers of ``pl_module.network``; it begins with the weights after the first step. Validation sees the average.
    Checkpoints have it as their ``state_dict``, so that test and prediction take it with nothing else to do, and the
    weights that are trained beside it, from which a run resumes exactly. After a fit the network holds the average.
    Routes, counters, and all else that is no floating number stay the network's own.

    Parameters go by their names: those that the network loses while it trains are forgotten, and new ones join with
    the value that they have.

    Lightning's ``EMAWeightAveraging`` does not fit here: its copy of the module keeps the routes of the beginning,
    after a fit ``Trainer.test(ckpt_path=...)`` gets the weights that are not averaged, it averages counters, and it
    pairs parameters by place, which goes wrong when one disappears.

    Args:
        decay: :math:`d`; the average reaches back over about ``1 / (1 - decay)`` steps.

    Raises:
        ValueError: If the decay is not at least 0 and below 1.

    Example:
        >>> AveragedWeights(decay=0.9).decay
        0.9
    """

    needs_whole_network: ClassVar[bool] = True
    """A pipeline, whose processes have parts of it, refuses it."""

    def __init__(self, decay: float = 0.999) -> None:
        if not 0 <= decay < 1:
            raise ValueError(f"decay={decay} is out of range; give 0 or more, and less than 1, such as 0.999")
        self.decay = decay
        self.average: dict[str, Tensor] = {}
        """The average by name of parameter or buffer, on the weights' device, in at least float32."""
        self._trained: dict[str, Tensor] = {}  # the trained weights, while the network holds the average
        self._step = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Begin anew with each fit; what is resumed is loaded later.

        Args:
            trainer: Whose checkpoint callbacks are looked at.
            pl_module: Not looked at.
            stage: Lightning's; nothing is done but in ``"fit"``.

        Raises:
            ValueError: If a ``ModelCheckpoint`` saves weights only, which no callback can make averages.
        """
        if stage == "fit":
            for callback in trainer.checkpoint_callbacks:
                if getattr(callback, "save_weights_only", False):
                    raise ValueError(
                        "save_weights_only=True leaves callbacks out, and so would save weights that are not averaged; "
                        "use a whole checkpoint with AveragedWeights"
                    )
            self.average, self._trained, self._step = {}, {}, trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        """Take the weights into the average if an optimizer step was made."""
        self._update(trainer, pl_module)

    @torch.no_grad()
    def _update(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Tensor]:
        """Bring the average up to date, and give the network's weights; once per step, whoever asks first.

        A callback before this one may save a checkpoint before this one has seen the batch's end.
        """
        weights = floating_weights(pl_module)
        for name, mean in list(self.average.items()):
            if name not in weights or weights[name].shape != mean.shape:
                del self.average[name]
            else:
                self.average[name] = mean.to(weights[name].device)  # loaded before the network went to its device
        if self._step == trainer.global_step:
            return weights
        self._step = trainer.global_step
        # bfloat16 would round small changes of an average away
        newest: dict[str, Tensor] = {}
        for name, weight in weights.items():
            newest[name] = at_least_float32(weight)
        if self.average:
            means = list(self.average.values())
            torch._foreach_lerp_(means, [newest[name] for name in self.average], 1 - self.decay)
        for name in newest.keys() - self.average.keys():
            self.average[name] = newest[name].clone()
        return weights

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the average in, during a fit; a checkpoint that is validated by itself has it already."""
        if trainer.state.fn == "fit":
            self._put_in(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Put the trained weights back, in a fit; after it the network keeps the average."""
        if trainer.state.fn == "fit":
            self._put_back(pl_module)

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Put the trained weights back: whoever interrupts a validation may look at them."""
        if trainer.state.fn == "fit":
            self._put_back(pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Leave the average in the network."""
        self._put_in(trainer, pl_module)

    @torch.no_grad()
    def _put_in(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = self._update(trainer, pl_module)
        self._trained = {name: weights[name].clone() for name in self.average}
        for name, mean in self.average.items():
            weights[name].copy_(mean)

    @torch.no_grad()
    def _put_back(self, pl_module: LightningModule) -> None:
        for name, weight in floating_weights(pl_module).items():
            if name in self._trained:
                weight.copy_(self._trained[name])
        self._trained = {}

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Save the average as the ``state_dict``, and beside it what resuming takes."""
        if trainer.state.fn != "fit":
            return  # the network is what somebody has loaded into it
        weights = self._update(trainer, pl_module)
        trained = {name: self._trained.get(name, weights[name]) for name in self.average}
        checkpoint["averaging"] = {"average": dict(self.average), "trained": trained}
        state_dict = checkpoint["state_dict"]
        for name, mean in self.average.items():
            key = f"network.{name}"
            if key in state_dict:  # buffers may have been registered as not to be saved
                state_dict[key] = mean.to(weights[name].dtype)

    @torch.no_grad()
    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        """Go on with a fit: the average, and in the network the trained weights.

        To look at a checkpoint takes nothing, and of one that was saved without this callback the average begins now.

        Args:
            trainer: Which is fitting, or not.
            pl_module: Whose network gets the weights.
            checkpoint: What was saved.
        """
        if trainer.state.fn != "fit":
            return
        self._step = checkpoint["global_step"]
        weights = floating_weights(pl_module)
        averaging = checkpoint.get("averaging", {"average": {}, "trained": {}})
        self.average = {}
        for name, mean in averaging["average"].items():
            self.average[name] = mean.to(weights[name].device, copy=True)
        for name, trained in averaging["trained"].items():
            weights[name].copy_(trained)


def floating_weights(pl_module: LightningModule) -> dict[str, Tensor]:
    """Give what is averaged of a network.

    Args:
        pl_module: Which has it as ``network``.

    Returns:
        Its floating parameters and buffers by name, of any shape; not copies.
    """
    network: Any = pl_module.network
    # a state_dict would be slower than the average: it writes the history of routes into a tensor
    named = itertools.chain(
        network.named_parameters(remove_duplicate=False), network.named_buffers(remove_duplicate=False)
    )
    return {name: value.detach() for name, value in named if value.is_floating_point()}
