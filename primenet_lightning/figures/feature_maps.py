"""What each capsule makes of a few images (figure 4 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from torch import Tensor
from torchvision.utils import make_grid

from primenet_lightning.figures.style import new_figure, readable, style_of
from primenet_lightning.nn.names import LearnerName, learners_of, stages_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MANY_CAPSULES = 4
"""Of more capsules than this a single channel each is shown: at 600 pixels four tiles would be thumbnails."""

NARROW = 10
"""Letters that such a thumbnail is wide."""


class Cell(NamedTuple):
    """One capsule's part of a row.

    Attributes:
        name: ``"block0.k3"``.
        tiles: Its strongest channels on this image, strongest first, ``(channels, height, width)``.
        loss: Its local loss on this image, in nats.
        verdict: The class its local classifier says.
        mark: ``"routed"`` if the inference route takes it, ``"goes on"`` if all maps go on, else nothing.
    """

    name: str
    tiles: Tensor
    loss: float
    verdict: int
    mark: str


class Row(NamedTuple):
    """One image with what everyone makes of it.

    Attributes:
        pixels: uint8, ``(height, width)`` or ``(height, width, 3)``.
        label: Its class.
        cells: One per capsule, of all blocks that are shown.
        verdict: The class that the head says.
    """

    pixels: Tensor
    label: int
    cells: list[Cell]
    verdict: int


def draw_feature_maps(rows: Sequence[Row], names: Sequence[str], classes: Sequence[str], epoch: int) -> "Figure":
    """Draw each image, the maps of each capsule with its loss and verdict, and the head's verdict.

    Args:
        rows: At least one.
        names: Full names of the capsules, in order; those of one block have a row of their own beside the image.
        classes: Names of the classes.
        epoch: Epochs that were done, for the title.

    Returns:
        The figure, of at least 600 pixels' width. The capsules whose maps go on are framed.
    """
    blocks = stages_of(names)
    most = max(len(learners_of(block, names)) for block in blocks)
    many = most > MANY_CAPSULES
    figure, table = _table(len(rows) * len(blocks), most, many)
    for place, row in enumerate(rows):
        cell_by_name = {cell.name: cell for cell in row.cells}
        for index, block in enumerate(blocks):
            image, *others, head = table[place * len(blocks) + index]
            cells = [cell_by_name[name] for name in learners_of(block, names)]
            for axes, cell in zip(others, cells, strict=False):
                _draw_cell(axes, cell, names, _verdict(classes, cell.verdict, row.label, many), many)
            for axes in others[len(cells) :]:
                axes.remove()
            if index == 0:
                _draw_image(image, row, classes, many)
            else:
                image.remove()
            if index == len(blocks) - 1:
                verdict = _verdict(classes, row.verdict, row.label, narrow=True)
                head.text(0.5, 0.5, f"head:\n{verdict}", ha="center", va="center", fontsize=8 if many else 9)
                _without_frame(head)
            else:
                head.remove()
    figure.suptitle(_title(rows[0].cells[0], epoch), fontsize=9)
    return figure


def _title(cell: Cell, epoch: int) -> str:
    channels = "strongest channels"
    if len(cell.tiles) == 1:
        channels = "strongest channel"
    return (
        f"Feature maps after epoch {epoch}: {channels} of each capsule (bright: strong),\nits cross-entropy on the "
        "image and its verdict"
    )


def _table(rows: int, capsules: int, many: bool) -> tuple["Figure", Any]:
    """A figure with room for the image, the capsules and the head in each row."""
    width = max(6.0, 0.6 * (capsules + 2))
    cell = width / (capsules + 1.8)
    figure = new_figure(width, 0.62 + rows * (cell + (0.74 if many else 0.5)))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.03, h_pad=0.03, hspace=0.02, wspace=0.06)
    ratios = [1.0] * (capsules + 1) + [0.8]
    return figure, figure.subplots(rows, len(ratios), squeeze=False, width_ratios=ratios)


def _draw_image(axes: "Axes", row: Row, classes: Sequence[str], many: bool) -> None:
    heading, size = "image of class", 8
    if many:
        heading, size = "image:", 7
    axes.imshow(row.pixels.numpy(), cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"{heading}\n{_class(classes, row.label, many)}", fontsize=size)
    _without_frame(axes)


def _without_frame(axes: "Axes") -> None:
    axes.set(xticks=[], yticks=[])
    axes.set_frame_on(False)


def _draw_cell(axes: "Axes", cell: Cell, names: Sequence[str], verdict: str, many: bool) -> None:
    axes.imshow(tiled(cell.tiles).numpy(), cmap="viridis", interpolation="nearest")
    if many:
        axes.set_title(f"{_in_two_lines(cell.name)}\n{cell.loss:.2f} nats\n{verdict}", fontsize=7)
    else:
        axes.set_title(f"{readable(cell.name, 16)}: {cell.loss:.2f} nats\n{verdict}", fontsize=8)
    _without_frame(axes)
    if cell.mark:
        axes.set_frame_on(True)
        axes.set_xlabel(cell.mark, fontsize=8, fontweight="bold", labelpad=2)
        for spine in axes.spines.values():
            spine.set(linewidth=4, color=style_of(cell.name, names)["color"])


def _in_two_lines(name: str) -> str:
    """A full name where there is little room: the capsule's own below that of its block, if it must be."""
    if len(name) <= NARROW:
        return readable(name)
    stage, learner = LearnerName.parse(name)
    return f"{readable(stage, NARROW)}.\n{readable(learner, NARROW)}"


def _class(classes: Sequence[str], label: int, narrow: bool) -> str:
    return readable(classes[label], 9 if narrow else 14)


def _verdict(classes: Sequence[str], answer: int, label: int, narrow: bool) -> str:
    between = "\n" if narrow else ", "
    judgement = "right" if answer == label else "wrong"
    return f"{_class(classes, answer, narrow)}{between}{judgement}"


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
