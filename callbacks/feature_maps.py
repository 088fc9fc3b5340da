"""Feature maps: what each capsule makes of a few images (figure 4 of the paper)."""

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from primenet_lightning.analysis.sample import BalancedSample
from primenet_lightning.analysis.views import CapsuleView, as_pixels, view_capsules
from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.publishing import class_names, normalization, publish
from primenet_lightning.callbacks.sample import SampleCallback
from primenet_lightning.figures.feature_maps import MANY_CAPSULES, Cell, Row, draw_feature_maps
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.names import HEAD


class FeatureMaps(SampleCallback, metaclass=CheckedArguments):
    """Draw the maps of each capsule on a few fixed images, with its loss, its verdict and the route.

    One row per image, the first of each class that a validation shows, and per block. For each capsule: its strongest
    channels on that image (largest mean of absolute values), the cross-entropy of its local classifier in nats and what
    that says. The capsule whose map goes on is framed and marked "routed"; where all maps go on, each is framed and
    marked "goes on". The head's verdict ends the last row.
    The picture is ``figures/feature_maps.png``, and an image in W&B and TensorBoard. Of more than four capsules one
    channel each is shown. Modules other than `PrimeNet` are left alone.

    Args:
        images: How many images.
        channels: Channels of each capsule.
        every_n_epochs: How often it is drawn; None only when the fit ends.
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        block: Index of the one block whose capsules are shown; None shows all blocks.
        figure_format: Kind of the file: ``"png"``, ``"svg"`` or ``"pdf"``, which comes with a PNG beside it.

    Raises:
        ValueError: If ``images``, ``channels`` or ``every_n_epochs`` is not positive, ``block`` is negative, or
            ``figure_format`` is unknown; when the fit starts, if the model has no such block.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FeatureMaps(images=3)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        images: int = 4,
        channels: int = 4,
        every_n_epochs: int | None = None,
        folder: str | Path | None = None,
        block: int | None = None,
        figure_format: FigureFormat = "png",
    ) -> None:
        super().__init__(every_n_epochs, folder, figure_format)
        at_least(1, images=images, channels=channels)
        if block is not None:
            at_least(0, block=block)
        self.images = images
        self.channels = channels
        self.block = block

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Ask for a sample, unless no capsule has a verdict of its own."""
        if isinstance(pl_module, PrimeNet) and not pl_module.network.local:
            self._sample = None
            rank_zero_warn(
                "FeatureMaps has nothing to show: trained end to end (local=False), no capsule has a verdict"
            )
            return
        super().on_fit_start(trainer, pl_module)

    def check(self, model: PrimeNet) -> int:
        """Refuse a block that is not there.

        Args:
            model: The model.

        Returns:
            ``images``, or the number of classes if that is more.

        Raises:
            ValueError: If the model has no such block.
        """
        blocks = len(model.network.prime_blocks)
        if self.block is not None and self.block >= blocks:
            raise ValueError(f"block={self.block} is not there: the model has {blocks}; count from 0")
        return max(self.images, model.num_classes)

    def look(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Draw the figure."""
        first_of_each_class = sample.labels.argsort(stable=True)[: self.images]
        labels = sample.labels[first_of_each_class]
        with trainer.precision_plugin.forward_context():  # around no more than this: it changes torch's default dtype
            view = view_capsules(model, sample.images[first_of_each_class], labels)
        pixels = as_pixels(sample.images, *normalization(trainer, model))[first_of_each_class]
        blocks = range(len(model.network.prime_blocks))
        if self.block is not None:
            blocks = range(self.block, self.block + 1)
        names = [name for block in blocks for name in model.network.capsule_names[block]]
        rows: list[Row] = []
        for place in range(len(labels)):
            cells: list[Cell] = []
            for block in blocks:
                cells += self._cells(model, view, block, labels[place : place + 1], place)
            verdict = int(view.logits[HEAD][place].argmax())
            rows.append(Row(pixels[place], int(labels[place]), cells, verdict))
        classes = class_names(trainer, model, model.num_classes)
        figure = draw_feature_maps(rows, names, classes, epoch)
        publish(figure, "feature_maps", trainer, folder, self.figure_format)

    def _cells(self, model: PrimeNet, view: CapsuleView, block: int, label: Tensor, place: int) -> list[Cell]:
        """What there is to show of the capsules of a block, of one image of a view."""
        names, loss = model.network.capsule_names[block], model.network.prime_blocks[block].loss
        channels = self.channels if len(names) <= MANY_CAPSULES else 1
        routed = int(view.route[block, place])
        cells: list[Cell] = []
        for index, name in enumerate(names):
            logits, maps = view.logits[name][place : place + 1], view.maps[name][place]
            strongest = maps.abs().mean((1, 2)).topk(min(channels, len(maps))).indices
            mark = ""
            if routed == index:
                mark = "routed"
            elif routed < 0:
                mark = "goes on"
            cells.append(Cell(name, maps[strongest], float(loss(logits, label)), int(logits.argmax()), mark))
        return cells
