"""ONE under the engine, and the plain network that is left of it."""

from collections.abc import Mapping
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from torch import nn

from primenet_lightning.baselines.one.network import Answering, EnsembleNetwork, NativeEnsemble
from primenet_lightning.baselines.one.resnet import BlockName, residual_network
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.systems.distillation import rise
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable

TEMPERATURE = 3.0
"""Of the authors' distillation."""

RAMP = 80 / 300
"""Share of the epochs over which the authors' distillation comes in."""


class TargetResNet(EndToEnd):
    """The plain residual network that `OneNet` is compared with, and that is left of it: `residual_network`.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        depth: Layers, 6 n + 2.
        block: Kind of the blocks; None: bottlenecks from a depth of 44 on.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Example:
        >>> import torch
        >>> TargetResNet(1, (8, 8), 10, depth=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        depth: int = 32,
        block: BlockName | None = None,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self) -> nn.Sequential:
        """Build the network."""
        return residual_network(self.hparams["depth"], self.in_shape[0], self.num_classes, self.hparams["block"])


class OneNet(EndToEnd):
    """`NativeEnsemble` trained end to end: branches that learn from the labels, and from their own ensemble.

    Lan, Zhu and Gong, "Knowledge Distillation by On-the-Fly Native Ensemble", NeurIPS 2018. The last stage of a
    residual network is there several times; a gate mixes the branches' logits to those of a teacher. Prediction,
    validation and test are those of the first branch (ONE) or of the ensemble (ONE-E); the cost that is counted is that
    of what predicts. `exported` gives the plain network.

    The authors train by SGD with momentum 0.9, weight decay 1e-4, learning rate 0.1, a tenth of it from half and from
    three quarters of 300 epochs on, batches of 128: ``configs/systems/one.yaml``.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        depth: Layers of the target network, 6 n + 2.
        block: Kind of its blocks; None: bottlenecks from a depth of 44 on, as in the authors' code.
        branches: Last stages, the target's included.
        temperature: Of the distillation.
        ramp_epochs: Epochs over which the distillation comes in, see `rise`; 0 has it from the start. None takes the
            authors' 80 of 300, in proportion to ``max_epochs``.
        distills: False leaves the distillation out, so that the branches learn from the labels alone.
        predicts: ``"target"``: the first branch alone. ``"ensemble"``: all, weighed by the gate.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Raises:
        ValueError: If an option is unknown, out of its range, or has nothing to do.

    Example:
        >>> import torch
        >>> OneNet(1, (8, 8), 10, depth=8)(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    network: EnsembleNetwork

    LAID_OUT = ("ramp_length", "epoch")

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        depth: int = 32,
        block: BlockName | None = None,
        branches: int = 3,
        temperature: float = TEMPERATURE,
        ramp_epochs: float | None = None,
        distills: bool = True,
        predicts: Answering = "target",
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        if ramp_epochs is not None:
            if not ramp_epochs >= 0:
                raise ValueError(f"ramp_epochs={ramp_epochs} must be at least 0, or None for 80 epochs in 300")
            if not distills:
                raise ValueError(f"ramp_epochs={ramp_epochs} has nothing to do with distills=False; leave it out")
        if not distills and temperature != TEMPERATURE:
            raise ValueError(f"temperature={temperature} has nothing to do with distills=False; leave it out")
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)

    def configure_backbone(self) -> NativeEnsemble:
        """Build the branches and the gate."""
        names = ("depth", "block", "branches", "temperature", "predicts")
        options = {name: self.hparams[name] for name in names}
        return NativeEnsemble(self.in_shape[0], self.num_classes, **options)

    def configure_network(self) -> EnsembleNetwork:
        """Make it one stage, in which without labels only who predicts is computed."""
        return EnsembleNetwork(self.configure_backbone(), self.in_shape)

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """As in `LocalLearner`; and refuse a ramp in proportion to epochs that nobody has counted.

        Args:
            trainer: The Trainer.
            stage: Lightning's.
            datamodule: The data; None takes the Trainer's.

        Raises:
            ValueError: If there is such a ramp, and as in `LocalLearner`.
        """
        super().check(trainer, stage, datamodule)
        tried_out = trainer.fast_dev_run  # type: ignore[attr-defined]
        if stage != "fit" or not self._has_ramp_by_epochs or tried_out:
            return
        if (trainer.max_epochs or -1) < 0:
            raise ValueError(
                f"ramp_epochs=None goes by the number of epochs, which nobody knows (max_epochs={trainer.max_epochs}); "
                "give ramp_epochs, or max_epochs"
            )
        if trainer.max_steps >= 0:
            raise ValueError(
                f"ramp_epochs=None goes by max_epochs={trainer.max_epochs}, but max_steps={trainer.max_steps} may end "
                "the fit before; give ramp_epochs"
            )

    @property
    def _has_ramp_by_epochs(self) -> bool:
        """Whether the ramp goes by ``max_epochs``."""
        return bool(self.hparams["distills"]) and self.hparams["ramp_epochs"] is None

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `EndToEnd`, with the length of the ramp."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["ramp_length"] = self._length_of_ramp() if self._has_ramp_by_epochs else None

    def check_resumed(self, checkpoint: Mapping[str, Any]) -> None:
        """As in `LocalLearner`; and refuse to lay out anew a ramp that is not over.

        Args:
            checkpoint: Entries `LAID_OUT` of the run's checkpoint.

        Raises:
            ValueError: If it would have another length.
        """
        super().check_resumed(checkpoint)
        before, now = checkpoint.get("ramp_length"), self._length_of_ramp()
        if not self._has_ramp_by_epochs or before in (None, now) or checkpoint["epoch"] >= max(before, now):
            return
        raise ValueError(
            f"ramp_epochs=None laid the ramp out over {before:g} epochs in the run that is resumed, and would now over "
            f"{now:g}; resume with the same max_epochs, or give ramp_epochs={before:g}"
        )

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Weigh the distillation by the epoch. An epoch that is resumed in its middle calls nothing at its start."""
        super().on_train_batch_start(batch, batch_idx)
        self.network.model.distilled = self.distilled_at(self.current_epoch)

    def distilled_at(self, epoch: int) -> float:
        """Tell the weight of the distillation.

        Args:
            epoch: Of this fit, from 0.

        Returns:
            From 0 to 1.
        """
        return rise(epoch, self._length_of_ramp()) if self.hparams["distills"] else 0.0

    def _length_of_ramp(self) -> float:
        """In epochs."""
        given: float | None = self.hparams["ramp_epochs"]
        return RAMP * (self.trainer.max_epochs or 0) if given is None else given

    def final_model(self) -> EndToEnd:
        """Give the plain network that the first branch is; where the ensemble predicts, this model."""
        return self if self.network.model.predicts == "ensemble" else self.exported()

    def exported(self) -> EndToEnd:
        """Give the plain network that the first branch is.

        Returns:
            A `TargetResNet` of its own parameters, in evaluation mode, whose answers are those of the branch.

        Raises:
            ValueError: If the ensemble predicts, which needs all branches.
        """
        ensemble = self.network.model
        if ensemble.predicts == "ensemble":
            raise ValueError("predicts='ensemble' needs all branches, and nothing can be left out; use 'target'")
        taken = ("in_channels", "image_size", "num_classes", "depth", "block")
        model = TargetResNet(**{name: self.hparams[name] for name in taken})
        model.network = WholeNetwork(ensemble.target_network(), self.in_shape)
        model.data_description = self.data_description
        return model.to(self.device).eval()
