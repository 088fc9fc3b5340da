"""Which classes are taken for which, and the images that a network is most wrong about."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from torch import Tensor

from primenet_lightning.analysis.wrong_answers import WrongAnswers
from primenet_lightning.figures.style import new_figure, readable

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

SIDE = 400
"""Pixels that the matrix is wide and high, about."""


def draw_confusion(confusion: Tensor, names: Sequence[str], title: str) -> "Figure":
    """Draw a confusion matrix: counts as numbers where they fit, percent of each row as colour.

    Args:
        confusion: ``(classes, classes)``, rows true, columns predicted.
        names: What the classes are called.
        title: Above it.

    Returns:
        The figure.
    """
    from matplotlib.colors import PowerNorm

    percent = 100 * confusion / confusion.sum(1, keepdim=True).clamp_min(1)
    figure = new_figure(6, 5.6)
    axes = figure.subplots()
    # the square root lets one percent be seen beside a hundred
    picture = axes.imshow(percent.numpy(), cmap="Blues", norm=PowerNorm(0.5, 0, 100), interpolation="nearest")
    bar = figure.colorbar(picture, ax=axes, shrink=0.8, ticks=[0, 1, 5, 10, 25, 50, 75, 100])
    bar.set_label("percent of the true class's images")
    bar.ax.tick_params(labelsize=8)
    _name_classes(axes, names)
    _write_counts(axes, confusion, percent)
    axes.set_title(title, fontsize=10)
    return figure


def _write_counts(axes: "Axes", confusion: Tensor, percent: Tensor) -> None:
    """Write the counts into the cells, if the largest fits."""
    size = 8 if len(confusion) <= 10 else 7
    digits = len(str(int(confusion.max())))
    cell = SIDE / len(confusion)
    if cell < 0.9 * size * digits + 3 or cell < 2 * size:
        return
    for row, column in confusion.nonzero().tolist():
        colour = "black"
        if percent[row, column] > 35:  # a dark cell
            colour = "white"
        count = str(int(confusion[row, column]))
        axes.text(column, row, count, ha="center", va="center", color=colour, fontsize=size)


def _name_classes(axes: "Axes", names: Sequence[str]) -> None:
    """Write as many of the names as have room, evenly."""
    every = -(-len(names) * 16 // SIDE)
    places = range(0, len(names), every)
    labels = [readable(names[place], 14) for place in places]
    letters = max(map(len, labels)) * len(labels)
    rotation = 0
    if letters > 40:
        rotation = 90
    axes.set_xticks(places, labels, rotation=rotation, fontsize=8)
    axes.set_yticks(places, labels, fontsize=8)
    axes.set_xlabel("predicted class")
    axes.set_ylabel("true class")


def draw_errors(errors: WrongAnswers, pixels: Sequence[Any], names: Sequence[str], title: str) -> "Figure":
    """Draw wrongly classified images, four in a row, worst first.

    Args:
        errors: The errors.
        pixels: Their images, uint8 arrays.
        names: What the classes are called.
        title: Above them.

    Returns:
        The figure.
    """
    rows = -(-len(pixels) // 4)
    figure = new_figure(6, max(1.0, 0.7 + 1.75 * rows))
    if pixels:
        title += "\nabove each image: true class \u2192 predicted class"
    figure.suptitle(title, fontsize=10)
    if not pixels:
        figure.text(0.5, 0.4, "no errors", ha="center", va="center")
        return figure
    all_axes = figure.subplots(rows, 4, squeeze=False).flatten()
    for axes in all_axes:
        axes.axis("off")
    losses, labels, answers = errors.loss.tolist(), errors.true.tolist(), errors.predicted.tolist()
    for axes, image, loss, true, predicted in zip(all_axes, pixels, losses, labels, answers, strict=False):
        axes.imshow(image, cmap="gray", vmin=0, vmax=255, interpolation="nearest")
        axes.set_title(f"{_from_to(names[true], names[predicted])}\nloss {loss:.2f} nats", fontsize=8)
    return figure


def _from_to(true: str, predicted: str) -> str:
    """What was taken for what, in two lines if it is too long for one."""
    text = f"{readable(true)} \u2192 {readable(predicted)}"
    if len(text) <= 22:
        return text
    return f"{readable(true, 20)} \u2192\n{readable(predicted, 22)}"
