"""CondenseNet under the engine: condensed by the progress of the fit."""

from collections.abc import Mapping, Sequence
from typing import Any

from lightning.pytorch import LightningDataModule, Trainer
from lightning.pytorch.utilities import rank_zero_info
from lightning.pytorch.utilities.types import OptimizerLRScheduler

from primenet_lightning.baselines.condensenet.layers import stage_at
from primenet_lightning.baselines.condensenet.network import CondenseNetwork, Size, architecture, smallest_image
from primenet_lightning.models.end_to_end import EndToEnd
from primenet_lightning.nn.whole import WholeNetwork
from primenet_lightning.training.adam import PaperAdam
from primenet_lightning.training.optimizers import OptimizerCallable
from primenet_lightning.training.progress import refuse_endless, refuse_other_length

CONDENSATION = "the condensation of CondenseNet"
"""What goes by the progress of the fit, for sentences."""

AUTHORS_CONDENSATION = 4
"""One input in so many is left, in the authors' networks."""


class CondenseNet(EndToEnd):
    """`CondenseNetwork` trained end to end; in the first half of the fit its 1x1 convolutions condense.

    Huang, Liu, van der Maaten and Weinberger, "CondenseNet: An Efficient DenseNet using Learned Group Convolutions",
    CVPR 2018. Before a batch that begins a new stage (at 1/6, 1/3 and 1/2 of the fit for ``condensation=4``), each
    group of filters gives up the input channels that it reads least. Masks are saved in checkpoints; a fit that is
    resumed condenses when the whole one would have. The best weights are chosen after the last stage has been reached.
    The cost that is counted is that of the converted network, which `exported` gives.

    The authors train by SGD with Nesterov's momentum 0.9, weight decay 1e-4, learning rate 0.1 with a cosine, batches
    of 64, for 300 epochs: ``configs/systems/condensenet.yaml``.

    Args:
        in_channels: Channels of the images.
        image_size: Height and width of the images, in pixels.
        num_classes: Number of classes.
        size: ``"86"``, another depth, or ``"light94"``, of the networks for 32x32 images.
        layers: Layers of each block, in place of the size's.
        growth: Channels that each layer of a block adds, in place of the size's.
        groups: As in `CondenseNetwork`, as are the five that follow.
        condensation: One part in so many of the inputs is left; 1 condenses nothing.
        dropout: Share of the values before a 1x1 convolution that are dropped.
        learned: False has groups that are fixed from the start.
        lasso: Weight of the group lasso.
        halve_classifier: Whether the conversion keeps half of the classifier's inputs.
        converted: Whether this is a network that was converted, as `exported` gives it.
        optimizer: As in `EndToEnd`.
        **learning: As in `EndToEnd`.

    Raises:
        ValueError: If an option is out of its range, has nothing to do, or does not go with others.

    Example:
        >>> import torch
        >>> model = CondenseNet(1, (8, 8), 10, layers=[2, 2], growth=[8, 16])
        >>> model(torch.zeros(2, 1, 8, 8)).shape
        torch.Size([2, 10])
    """

    LAID_OUT = ("condensation_steps",)

    def __init__(
        self,
        in_channels: int = 1,
        image_size: tuple[int, int] = (8, 8),
        num_classes: int = 10,
        size: Size = "86",
        layers: Sequence[int] | None = None,
        growth: Sequence[int] | None = None,
        groups: int = 4,
        condensation: int = AUTHORS_CONDENSATION,
        dropout: float = 0.0,
        learned: bool = True,
        lasso: float = 0.0,
        halve_classifier: bool = False,
        converted: bool = False,
        optimizer: OptimizerCallable = PaperAdam,
        **learning: Any,
    ) -> None:
        condenses = learned and not converted and condensation > 1
        if lasso and not condenses:
            raise ValueError(
                f"lasso={lasso} has nothing to do where no channels are given up; leave it out, or use learned=True, "
                "converted=False and a condensation of at least 2"
            )
        if not learned and condensation != AUTHORS_CONDENSATION:
            raise ValueError(
                f"condensation={condensation} has nothing to do with learned=False, whose groups are fixed from the "
                "start; leave it out"
            )
        if not learned and (converted or halve_classifier):
            raise ValueError(
                "learned=False has groups that are fixed from the start, and nothing to convert; leave "
                "converted and halve_classifier out"
            )
        smallest = smallest_image(architecture(size, layers, growth))
        if min(image_size) < smallest:
            raise ValueError(
                f"image_size={tuple(image_size)} is too small: pooling between the blocks needs {smallest} pixels; "
                "give fewer layers and growth, one a block"
            )
        super().__init__(in_channels, image_size, num_classes, optimizer, **learning)
        # the steps that the stages are laid out over, none where nothing is left to condense, and where they begin
        self._start = 0
        self._steps = 0
        self._stage_due = 0

    def configure_backbone(self) -> CondenseNetwork:
        """Build the network."""
        hparams = self.hparams
        network = CondenseNetwork(
            self.in_shape[0],
            self.num_classes,
            architecture(hparams["size"], hparams["layers"], hparams["growth"]),
            hparams["groups"],
            hparams["condensation"],
            hparams["dropout"],
            hparams["learned"],
            hparams["lasso"],
            hparams["halve_classifier"],
        )
        return network.deployed() if hparams["converted"] else network

    def configure_network(self) -> WholeNetwork:
        """Make it one stage, whose loss has the group lasso in it."""
        network = self.configure_backbone()
        return WholeNetwork(network, self.in_shape, network.loss)

    @property
    def condense_network(self) -> CondenseNetwork:
        """The network in pure torch."""
        network = self.network.model
        assert isinstance(network, CondenseNetwork)
        return network

    @property
    def is_complete(self) -> bool:
        """Whether the last stage has been reached."""
        return self.condense_network.is_condensed

    def check(self, trainer: Trainer, stage: str, datamodule: LightningDataModule | None = None) -> None:
        """As in `LocalLearner`; and refuse a fit without an end, whose half nobody knows."""
        super().check(trainer, stage, datamodule)
        if stage == "fit" and not self.condense_network.is_condensed:
            refuse_endless(trainer, CONDENSATION)

    def configure_optimizers(self) -> OptimizerLRScheduler:
        """Build the optimizers, and lay the stages out over the fit."""
        if self.trainer.state.fn == "fit" and not self.condense_network.is_condensed:
            self._start, self._steps = self.span_of_fit(CONDENSATION)
        return super().configure_optimizers()

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """As in `EndToEnd`, with the steps that the condensation is laid out over."""
        super().on_save_checkpoint(checkpoint)
        checkpoint["condensation_steps"] = 0 if self.is_complete else self._steps

    def check_resumed(self, checkpoint: Mapping[str, Any]) -> None:
        """As in `LocalLearner`; and refuse to lay the stages that are left out anew.

        Args:
            checkpoint: Entries `LAID_OUT` of the run's checkpoint.

        Raises:
            ValueError: If the fit has another length.
        """
        super().check_resumed(checkpoint)
        refuse_other_length("the stages of condensation", checkpoint.get("condensation_steps", 0), self._steps)

    def on_train_start(self) -> None:
        """As in `EndToEnd`; of the network nothing is known yet."""
        super().on_train_start()
        self._stage_due = 0

    def on_train_batch_start(self, batch: Any, batch_idx: int) -> None:
        """Condense if it is due, where no gradient waits for the rest of its window."""
        super().on_train_batch_start(batch, batch_idx)
        if batch_idx % self.accumulate_grad_batches or not self._steps:
            return
        progress = (self.global_step - self._start) / self._steps
        stage = stage_at(progress, self.hparams["condensation"])
        # the network is asked at a new stage only, since its masks are on the device, which would be waited for
        if stage > self._stage_due and self.condense_network.condense(progress):
            rank_zero_info(f"condensed to stage {stage} of {self.hparams['condensation'] - 1}")
        self._stage_due = stage

    @property
    def _is_converted_when_done(self) -> bool:
        layers = self.condense_network.learned_layers
        return any(layer.condensation > 1 for layer in layers) or (bool(layers) and self.hparams["halve_classifier"])

    def final_model(self) -> "CondenseNet":
        """Give the converted network; where there is nothing to convert, this model."""
        return self.exported() if self._is_converted_when_done else self

    def exported(self) -> "CondenseNet":
        """Make a model of ordinary group convolutions that answers the same to rounding.

        Returns:
            A model of its own parameters, in evaluation mode; with ``halve_classifier`` its answers are others.

        Raises:
            ValueError: If the condensation has stages to go, or if there is nothing to convert.
        """
        if not self._is_converted_when_done:
            raise ValueError(
                "this CondenseNet is one of ordinary convolutions, and predicts as it was trained; there is nothing to "
                "export"
            )
        network = self.condense_network.converted()
        options = {**self.hparams, "converted": True, "lasso": 0.0}
        model = type(self)(**options)
        model.network = WholeNetwork(network, self.in_shape, network.loss)
        model.data_description = self.data_description
        return model.to(self.device).eval()
