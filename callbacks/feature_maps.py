"""Feature maps: what each capsule makes of a few images (figure 4 of the paper)."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from primenet_lightning.callbacks.capsule_views import as_pixels, names_of_classes, view_capsules
from primenet_lightning.callbacks.figures import new_figure, publish, style_of
from primenet_lightning.callbacks.sample import BalancedSample, SampleCallback
from primenet_lightning.models.prime import PrimeNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_CAPSULES = 4
"""Of more capsules than this a single channel each is shown: at 600 pixels four tiles would be thumbnails."""


class Cell(NamedTuple):
    """One capsule's part of a row.

    Attributes:
        name: ``"block0.k3"``.
        tiles: Its strongest channels on this image, strongest first, ``(channels, height, width)``.
        loss: Its local loss on this image, in nats.
        verdict: The class its local classifier says.
        routed: Whether the inference route takes it.
    """

    name: str
    tiles: Tensor
    loss: float
    verdict: int
    routed: bool


class Row(NamedTuple):
    """One image with what everyone makes of it.

    Attributes:
        pixels: uint8, ``(height, width)`` or ``(height, width, 3)``.
        label: Its class.
        cells: One a capsule.
        verdict: The class that the head says.
    """

    pixels: Tensor
    label: int
    cells: list[Cell]
    verdict: int


class FeatureMaps(SampleCallback):
    """Draw the maps of each capsule on a few fixed images, with its loss, its verdict and the route.

    One row an image, the first of each class that a validation shows. For each capsule of one block: its strongest
    channels on that image (largest mean of absolute values), the cross-entropy of its local classifier in nats and what
    that says. The capsule whose map goes on is framed and marked "routed", or all of them; the head's verdict ends the
    row.
    The picture is ``figures/feature_maps.png``, and an image in W&B and TensorBoard. Of more than four capsules one
    channel each is shown. Modules other than `PrimeNet` are left alone.

    Args:
        images: How many images.
        channels: Channels of each capsule.
        every_n_epochs: How often it is drawn; None only when the fit ends.
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        block: Index of the block whose capsules are shown.

    Raises:
        ValueError: If ``images``, ``channels`` or ``every_n_epochs`` is not positive, or ``block`` is negative; when
            the fit starts, if the model has no such block.

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
        block: int = 0,
    ) -> None:
        super().__init__(every_n_epochs, folder)
        for name, value, least in (("images", images, 1), ("channels", channels, 1), ("block", block, 0)):
            if value < least:
                raise ValueError(f"{name}={value} is too small; give at least {least}")
        self.images, self.channels, self.block = images, channels, block

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
        if self.block >= blocks:
            raise ValueError(f"block={self.block} is not there: the model has {blocks}; count from 0")
        return max(self.images, model.num_classes)

    def look(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Draw the figure."""
        rows = self._rows(trainer, model, sample)
        names = model.network.capsule_names[self.block]
        figure = _draw(rows, names, names_of_classes(trainer, model.num_classes), epoch)
        publish(figure, "feature_maps", trainer, folder)

    def _rows(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample) -> list[Row]:
        chosen = sample.labels.argsort(stable=True)[: self.images]
        images, labels = sample.images[chosen], sample.labels[chosen]
        with trainer.precision_plugin.forward_context():  # around no more than this: it changes torch's default dtype
            view = view_capsules(model, images, labels)
        network = model.network
        names, block = network.capsule_names[self.block], network.prime_blocks[self.block]
        channels = self.channels if len(names) <= MANY_CAPSULES else 1
        rows = []
        for i, pixels in enumerate(as_pixels(sample.images)[chosen]):
            cells = []
            for k, name in enumerate(names):
                scores, maps = view.logits[name][i : i + 1], view.maps[name][i]
                strongest = maps.abs().mean((1, 2)).topk(min(channels, len(maps))).indices
                loss = float(block.loss(scores, labels[i : i + 1]))
                routed = int(view.route[self.block, i]) in (k, -1)
                cells.append(Cell(name, maps[strongest], loss, int(scores.argmax()), routed))
            rows.append(Row(pixels, int(labels[i]), cells, int(view.logits["head"][i].argmax())))
        return rows


def _draw(rows: list[Row], names: list[str], classes: list[str], epoch: int) -> "Figure":
    many = len(names) > MANY_CAPSULES
    width = max(6.0, 0.6 * (len(names) + 2))
    cell = width / (len(names) + 1.8)
    figure = new_figure(width, 0.62 + len(rows) * (cell + (0.62 if many else 0.5)))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.06)
    ratios = [1.0] * (len(names) + 1) + [0.8]
    table = figure.subplots(len(rows), len(ratios), squeeze=False, width_ratios=ratios)
    size = 7 if many else 8
    for axes, row in zip(table, rows, strict=True):
        axes[0].imshow(row.pixels.numpy(), cmap="gray", vmin=0, vmax=255)
        axes[0].set_title(f"image of class\n{classes[row.label]}" if not many else f"image:\n{classes[row.label]}")
        for place, item in zip(axes[1:-1], row.cells, strict=True):
            _draw_cell(place, item, names, _verdict(classes, item.verdict, row.label, many), many)
        axes[-1].text(0.5, 0.5, f"head:\n{_verdict(classes, row.verdict, row.label, True)}", ha="center", va="center")
        for place in axes:
            place.title.set_fontsize(size)
            place.set(xticks=[], yticks=[])
        for place in (axes[0], axes[-1]):
            place.set_frame_on(False)
        axes[-1].texts[0].set_fontsize(size + 1)
    tiles = "strongest channel" if len(rows[0].cells[0].tiles) == 1 else "strongest channels"
    figure.suptitle(
        f"Feature maps after epoch {epoch}: {tiles} of each capsule (bright: strong),\nits cross-entropy on the image "
        "and its verdict",
        fontsize=9,
    )
    return figure


def _draw_cell(axes: "Axes", cell: Cell, names: list[str], verdict: str, many: bool) -> None:
    axes.imshow(tiled(cell.tiles).numpy(), cmap="viridis", interpolation="nearest")
    name = cell.name.partition(".")[2] if many else cell.name
    axes.set_title(f"{name}\n{cell.loss:.2f} nats\n{verdict}" if many else f"{name}: {cell.loss:.2f} nats\n{verdict}")
    axes.set_frame_on(cell.routed)
    if cell.routed:
        axes.set_xlabel("routed", fontsize=8, fontweight="bold", labelpad=2)
        for spine in axes.spines.values():
            spine.set(linewidth=4, color=style_of(cell.name, names)["color"])


def _verdict(classes: list[str], said: int, label: int, narrow: bool) -> str:
    return f"{classes[said]}{chr(10) if narrow else ', '}{'right' if said == label else 'wrong'}"


def tiled(tiles: Tensor) -> Tensor:
    """Put channels beside and below each other, with a gap that stays white.

    Args:
        tiles: ``(channels, height, width)``.

    Returns:
        One picture, ``(height', width')``, as nearly square in tiles as that goes; NaN in the gaps.
    """
    columns = int(len(tiles) ** 0.5 + 0.999)
    gap = max(1, tiles.shape[2] // 14)
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1:]
    canvas = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap), float("nan"))
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
