"""What each capsule makes of a few images (figure 4 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torchvision.utils import make_grid

from primenet_lightning.figures.style import new_figure, style_of
from primenet_lightning.nn.names import LearnerName

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


def draw_feature_maps(rows: Sequence[Row], names: Sequence[str], classes: Sequence[str], epoch: int) -> "Figure":
    """Draw a row an image: the image, the maps of each capsule with its loss and verdict, and the head's verdict.

    Args:
        rows: At least one.
        names: Full names of the capsules, in order.
        classes: Names of the classes.
        epoch: Epochs that were done, for the title.

    Returns:
        The figure, of at least 600 pixels' width. The capsules whose maps go on are framed.
    """
    many = len(names) > MANY_CAPSULES
    figure, table = _table(len(rows), len(names), many)
    size, heading = 8, "image of class"
    if many:
        size, heading = 7, "image:"
    for axes_of_row, row in zip(table, rows, strict=True):
        image, *cells, head = axes_of_row
        image.imshow(row.pixels.numpy(), cmap="gray", vmin=0, vmax=255)
        image.set_title(f"{heading}\n{classes[row.label]}")
        for axes, cell in zip(cells, row.cells, strict=True):
            _draw_cell(axes, cell, names, _verdict(classes, cell.verdict, row.label, many), many)
        verdict = _verdict(classes, row.verdict, row.label, narrow=True)
        head.text(0.5, 0.5, f"head:\n{verdict}", ha="center", va="center", fontsize=size + 1)
        for axes in axes_of_row:
            axes.title.set_fontsize(size)
            axes.set(xticks=[], yticks=[])
        image.set_frame_on(False)
        head.set_frame_on(False)
    channels = "strongest channels"
    if len(rows[0].cells[0].tiles) == 1:
        channels = "strongest channel"
    figure.suptitle(
        f"Feature maps after epoch {epoch}: {channels} of each capsule (bright: strong),\nits cross-entropy on the "
        "image and its verdict",
        fontsize=9,
    )
    return figure


def _table(rows: int, capsules: int, many: bool) -> tuple["Figure", Any]:
    """A figure with room for the image, the capsules and the head in each row."""
    width = max(6.0, 0.6 * (capsules + 2))
    cell = width / (capsules + 1.8)
    figure = new_figure(width, 0.62 + rows * (cell + (0.62 if many else 0.5)))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.06)
    ratios = [1.0] * (capsules + 1) + [0.8]
    return figure, figure.subplots(rows, len(ratios), squeeze=False, width_ratios=ratios)


def _draw_cell(axes: "Axes", cell: Cell, names: Sequence[str], verdict: str, many: bool) -> None:
    axes.imshow(tiled(cell.tiles).numpy(), cmap="viridis", interpolation="nearest")
    if many:
        axes.set_title(f"{LearnerName.parse(cell.name).short}\n{cell.loss:.2f} nats\n{verdict}")
    else:
        axes.set_title(f"{cell.name}: {cell.loss:.2f} nats\n{verdict}")
    axes.set_frame_on(cell.routed)
    if cell.routed:
        axes.set_xlabel("routed", fontsize=8, fontweight="bold", labelpad=2)
        for spine in axes.spines.values():
            spine.set(linewidth=4, color=style_of(cell.name, names)["color"])


def _verdict(classes: Sequence[str], answer: int, label: int, narrow: bool) -> str:
    between = "\n" if narrow else ", "
    judgement = "right" if answer == label else "wrong"
    return f"{classes[answer]}{between}{judgement}"


def tiled(tiles: Tensor) -> Tensor:
    """Put channels beside and below each other, with a gap that stays white.

    Args:
        tiles: ``(channels, height, width)``.

    Returns:
        One picture, ``(height', width')``, as nearly square in tiles as that goes; NaN in the gaps.

    Example:
        >>> import torch
        >>> tiled(torch.ones(3, 2, 2))
        tensor([[1., 1., nan, 1., 1.],
                [1., 1., nan, 1., 1.],
                [nan, nan, nan, nan, nan],
                [1., 1., nan, nan, nan],
                [1., 1., nan, nan, nan]])
    """
    columns = int(len(tiles) ** 0.5 + 0.999)
    gap = max(1, tiles.shape[2] // 14)
    if len(tiles) == 1:
        return tiles[0]
    grid: Tensor = make_grid(tiles[:, None], nrow=columns, padding=gap, pad_value=float("nan"))
    return grid[0, gap:-gap, gap:-gap]  # it makes three channels of one, and puts a gap around
