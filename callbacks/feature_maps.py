"""Feature maps: what each capsule makes of a few images (figure 4 of the paper)."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn

from primenet_lightning.blocks import trial_run
from primenet_lightning.callbacks.figures import new_figure, publish, run_folder, style_of
from primenet_lightning.callbacks.sample import BalancedSample, images_and_labels
from primenet_lightning.module import PrimeNet
from primenet_lightning.network import Evaluation
from primenet_lightning.routing import least_entropy

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_CAPSULES = 4
"""Of more capsules than this a single channel each is shown: at 600 pixels four tiles would be thumbnails."""


class SampleCallback(Callback, ABC):
    """Looks at a fixed sample of the validation images, every so many epochs and when the fit ends.

    The sample is copied out of the first validation of the fit that is not the sanity check, on rank 0; later ones
    would only show the same images again. All further work is rank 0's too, and calls no collective.

    Args:
        every_n_epochs: How often; None only when the fit ends.
        folder: Where figures go; None takes `run_folder`.

    Raises:
        ValueError: If ``every_n_epochs`` is not positive.
    """

    def __init__(self, every_n_epochs: int | None, folder: str | Path | None) -> None:
        if every_n_epochs is not None and every_n_epochs < 1:
            raise ValueError(f"every_n_epochs={every_n_epochs} must be at least 1 epoch, or None for the end only")
        self.every_n_epochs = every_n_epochs
        self.folder = folder
        self._sample: BalancedSample | None = None
        self._collected = False
        self._looked_at: tuple[int, int] = (0, -1)  # epochs that were done, and the last batch

    @abstractmethod
    def check(self, model: PrimeNet) -> int:
        """Refuse a model that could not be looked at; tell how many images are wanted."""

    @abstractmethod
    def look(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Do the work, on rank 0.

        Args:
            trainer: The Trainer.
            model: The model.
            sample: At least one image.
            epoch: Epochs done so far.
            folder: The run's folder.
        """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Check the model and ask for the folder, while all ranks are at the same place."""
        self._sample, self._collected = None, False
        if not isinstance(pl_module, PrimeNet):
            rank_zero_warn(f"{type(self).__name__} has nothing to show: {type(pl_module).__name__} is no PrimeNet")
        elif not trainer.fast_dev_run:  # type: ignore[attr-defined]
            self._sample = BalancedSample(self.check(pl_module), pl_module.num_classes)
            self._folder = run_folder(trainer) if self.folder is None else Path(self.folder)

    def on_validation_batch_end(
        self,
        trainer: Trainer,
        pl_module: LightningModule,
        outputs: Any,
        batch: Any,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Copy what the sample still wants."""
        if self._sample is None or self._collected or self._sample.full or not trainer.is_global_zero:
            return
        if _in_fit(trainer) and (pair := images_and_labels(batch)) is not None:
            self._sample.add(*pair)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look, if so many epochs have passed."""
        if not _in_fit(trainer):
            return
        self._collected = True  # a small split never fills the sample; a second pass would only repeat it
        epoch = trainer.current_epoch + int(trainer.is_last_batch)
        every = self.every_n_epochs
        if every is not None and epoch // every > self._looked_at[0] // every:
            self._look(trainer, pl_module, epoch)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Look a last time, unless nothing was trained since the last time."""
        if self._looked_at[1] != trainer.fit_loop.total_batch_idx:
            self._look(trainer, pl_module, trainer.current_epoch)

    def _look(self, trainer: Trainer, pl_module: LightningModule, epoch: int) -> None:
        # the ranks' samples differ, so nothing below may be a collective
        self._looked_at = (epoch, trainer.fit_loop.total_batch_idx)
        if self._sample is not None and len(self._sample) and trainer.is_global_zero:
            assert isinstance(pl_module, PrimeNet)
            with trial_run(pl_module):
                self.look(trainer, pl_module, self._sample, epoch, self._folder)

    def state_dict(self) -> dict[str, Any]:
        """When it was looked last, so that a resumed run keeps the rhythm."""
        return {"looked_at": list(self._looked_at)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the rhythm of the run that is resumed."""
        epoch, batch = state_dict["looked_at"]
        self._looked_at = (epoch, batch)


def _in_fit(trainer: Trainer) -> bool:
    return trainer.state.fn == "fit" and not trainer.sanity_checking


class CapsuleView(NamedTuple):
    """What all capsules make of a batch.

    Attributes:
        maps: By full name, ``(batch, channels, height, width)``, float32 on the CPU.
        logits: By full name, ``(batch, classes)``, float32 on the CPU; also ``"head"``'s.
        route: Index of the routed capsule of each block and image, ``(blocks, batch)``, under the inference route.
    """

    maps: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Tensor


def view_capsules(model: PrimeNet, images: Tensor, labels: Tensor) -> CapsuleView:
    """Run every capsule on its own block's input under the inference route, in the modes the parts are in.

    Args:
        model: In evaluation mode.
        images: ``(batch, channels, height, width)``, on any device.
        labels: Class indices, ``(batch,)``.

    Returns:
        Maps, logits and route.
    """
    network, maps = model.network, dict[str, Tensor]()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            maps[name] = output[0].float().cpu()

        return hook

    with ExitStack() as hooks:
        for names, block in zip(network.capsule_names, network.prime_blocks, strict=True):
            for name, capsule in zip(names, block.capsules.values(), strict=True):
                hooks.callback(capsule.register_forward_hook(keep(name)).remove)
        seen = network.evaluate(model._images(images.to(model.device)), labels.to(model.device))
    logits = {name: scores.float().cpu() for name, scores in seen.logits.items()}
    return CapsuleView(maps, logits, _routes(network.capsule_names, logits, seen, len(images)))


def _routes(capsule_names: list[list[str]], logits: Mapping[str, Tensor], seen: Evaluation, count: int) -> Tensor:
    """The routed capsule of each block and image; where each image takes its own, the surest."""
    rows = [
        least_entropy(torch.stack([logits[name] for name in names])) if index < 0 else torch.full((count,), index)
        for names, index in zip(capsule_names, seen.route, strict=True)
    ]
    return torch.stack(rows)


def as_pixels(images: Tensor) -> Tensor:
    """Turn normalised images back into pictures, by the range that each channel has over all of them.

    Args:
        images: ``(images, channels, height, width)``.

    Returns:
        uint8, ``(images, height, width, 3)``; where there are not three channels ``(images, height, width)``, the
        first channel.
    """
    images = images.float()
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    pixels = ((images - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous() if images.shape[1] == 3 else pixels[:, 0].contiguous()


def names_of_classes(trainer: Trainer, num_classes: int) -> list[str]:
    """What the classes are called: by the datamodule, where there is one that says so, else by their numbers."""
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None) or ()
    return [str(name) for name in names] if len(names) == num_classes else [str(i) for i in range(num_classes)]


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
    channels on that image (largest mean of absolute values), its local loss in nats and what its local classifier
    says. The capsule that the inference route takes is framed and marked "routed"; the head's verdict ends the row.
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

    def check(self, model: PrimeNet) -> int:
        """Refuse a block that is not there; one image a class is wanted, or more."""
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
                routed = int(view.route[self.block, i]) == k
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
        f"Feature maps after epoch {epoch}: {tiles} of each capsule (bright: strong),\nits local loss on the image and "
        "its verdict",
        fontsize=9,
    )
    return figure


def _draw_cell(axes: "Axes", cell: Cell, names: list[str], verdict: str, many: bool) -> None:
    axes.imshow(_tiled(cell.tiles).numpy(), cmap="viridis", interpolation="nearest")
    name = cell.name.partition(".")[2] if many else cell.name
    axes.set_title(f"{name}\n{cell.loss:.2f} nats\n{verdict}" if many else f"{name}: {cell.loss:.2f} nats\n{verdict}")
    axes.set_frame_on(cell.routed)
    if cell.routed:
        axes.set_xlabel("routed", fontsize=8, fontweight="bold", labelpad=2)
        for spine in axes.spines.values():
            spine.set(linewidth=4, color=style_of(cell.name, names)["color"])


def _verdict(classes: list[str], said: int, label: int, narrow: bool) -> str:
    return f"{classes[said]}{chr(10) if narrow else ', '}{'right' if said == label else 'wrong'}"


def _tiled(tiles: Tensor) -> Tensor:
    """Put channels beside and below each other, with a gap that stays white; one scale for all of them."""
    columns = int(len(tiles) ** 0.5 + 0.999)
    gap = max(1, tiles.shape[2] // 14)
    rows = -(-len(tiles) // columns)
    height, width = tiles.shape[1:]
    canvas = torch.full((rows * (height + gap) - gap, columns * (width + gap) - gap), float("nan"))
    for index, tile in enumerate(tiles):
        top, left = index // columns * (height + gap), index % columns * (width + gap)
        canvas[top : top + height, left : left + width] = tile
    return canvas
