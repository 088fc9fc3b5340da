"""Embeddings in the plane, coloured by class, as a picture and as an animation (figure 6 of the paper)."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from primenet_lightning.analysis.embedding import Frame
from primenet_lightning.checksums import with_end
from primenet_lightning.figures.style import add_legend, new_figure, readable, style_of
from primenet_lightning.files import write_whole

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS = {
    "head": "Features before the head's last layer",
    "routed": "What the head sees, pooled to 4x4",
    "capsules": "Each capsule's map, pooled to 4x4",
}

# Ten colours chosen to lie as far apart as ten can, also as three kinds of colour-blind readers see them: no two are
# nearer than 13 by CIEDE2000, where matplotlib's own ten come to 1. style.COLOURS are seven, and are the capsules'.
CLASS_COLOURS = (
    *("#008DF9", "#BD1F01", "#BCBD22", "#8400CD", "#00FCCF"),
    *("#000000", "#FFB2FD", "#882255", "#94A4A2", "#CC6677"),
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p")
LONGEST_CLASS = 24
"""Letters of a class's name in a legend."""

MOST_MARKED = 20
"""Classes that colour and marker together can tell apart; of more, a colour bar tells roughly."""

Limits = tuple[float, float, float, float]
"""Left, right, bottom, top."""


def square_around(positions: Tensor) -> Limits:
    """Put a square around all points, with a margin.

    Args:
        positions: ``(points, 2)``.

    Returns:
        Its limits.

    Example:
        >>> [round(limit, 2) for limit in square_around(torch.tensor([[0.0, 0.0], [2.0, 1.0]]))]
        [-0.08, 2.08, -0.58, 1.58]
    """
    low, high = positions.amin(0), positions.amax(0)
    x, y = ((low + high) / 2).tolist()
    half = 0.54 * float((high - low).max()) or 1.0
    return x - half, x + half, y - half, y + half


def draw_embedding(
    frame: Frame, labels: Tensor, classes: Sequence[str], layer: str, limits: Mapping[str, Limits] | None = None
) -> "Figure":
    """Draw one embedding, coloured by class.

    Args:
        frame: The embedding.
        labels: Class indices, ``(images,)``.
        classes: Names of the classes.
        layer: For the title; ``"head"``, ``"routed"`` or ``"capsules"``.
        limits: Of the axes by name; None takes those of the points.

    Returns:
        A figure of 600 pixels' width; of capsules, a grid of pictures.
    """
    names = list(frame["positions"])
    single = len(names) == 1
    if limits is None:
        limits = {name: square_around(positions) for name, positions in frame["positions"].items()}
    figure, all_axes = _grid(len(names), classes)

    # the points, a picture a name
    scale = 1.0 / _columns(len(names))
    scatter: Any = None
    for axes, name in zip(all_axes, names, strict=True):
        scatter = scatter_classes(axes, frame["positions"][name], labels, classes, scale)
        _frame_plane(axes, limits[name])
        if not single or "." in name:
            axes.set_title(f"{readable(name)}\n{_in_words(frame['scores'][name], single)}", fontsize=8)
            for spine in axes.spines.values():
                spine.set(color=style_of(name, names)["color"], linewidth=2)

    # title and legend
    title = f"{LAYERS[layer]}, after epoch {frame['epoch']}"
    if layer != "capsules":
        title += f"\nin feature space: {_in_words(frame['scores'][layer], single)}"
    figure.suptitle(title, fontsize=10)
    if len(classes) > MOST_MARKED:
        figure.colorbar(scatter, ax=all_axes, label="class index", shrink=0.8)
    else:
        _add_legend(figure, all_axes[0], classes, single)
    return figure


def _columns(pictures: int) -> int:
    return min(pictures, 2 if pictures in (2, 4) else 3)


def _grid(pictures: int, classes: Sequence[str]) -> "tuple[Figure, list[Axes]]":
    """A figure with room for so many square pictures, and a legend of the classes."""
    columns = _columns(pictures)
    rows = -(-pictures // columns)
    height = 5.2
    if pictures > 1:
        legend = 0.7
        if len(classes) <= MOST_MARKED:
            legend = 0.2 + 0.19 * -(-len(classes) // columns_of(classes))
        height = 1.15 + rows * (5.0 / columns + 0.7) + legend
    figure = new_figure(6, height)
    all_axes = list(figure.subplots(rows, columns, squeeze=False).flatten())
    for axes in all_axes[pictures:]:
        axes.remove()
    return figure, all_axes[:pictures]


def _frame_plane(axes: "Axes", limits: Limits) -> None:
    left, right, bottom, top = limits
    axes.set(xlim=(left, right), ylim=(bottom, top), box_aspect=1, xticks=[], yticks=[])
    axes.set_xlabel("t-SNE 1", fontsize=8)
    axes.set_ylabel("t-SNE 2", fontsize=8)


def _in_words(scores: Mapping[str, float], wide: bool) -> str:
    silhouette = "one class, no silhouette"
    if "silhouette" in scores:
        silhouette = f"silhouette {scores['silhouette']:.2f}"
    share = f"{100 * scores['neighbour_accuracy']:.1f} %"
    if wide:
        return f"{silhouette}, nearest neighbours {share} right"
    return f"{silhouette}\nneighbours {share} right"


def scatter_classes(axes: "Axes", positions: Tensor, labels: Tensor, classes: Sequence[str], scale: float) -> Any:
    """Draw the points, class by class.

    Args:
        axes: Drawn into.
        positions: ``(points, 2)``.
        labels: Class indices, ``(points,)``.
        classes: Names of the classes.
        scale: Factor of the markers' area.

    Returns:
        None; where there are too many classes for a legend the one scatter of all, for a colour bar.
    """
    size = scale * min(max(16000 / len(positions), 12.0), 50.0)
    x, y = positions.numpy().T
    if len(classes) > MOST_MARKED:
        return axes.scatter(x, y, c=labels.numpy(), cmap="viridis", s=size, vmin=0, vmax=len(classes) - 1)
    for label in range(len(classes)):
        # the second ten have the first ten's colours, with other markers
        second, place = divmod(label, len(CLASS_COLOURS))
        own = (labels == label).numpy()
        axes.scatter(
            x[own],
            y[own],
            s=size,
            color=CLASS_COLOURS[place],
            marker=CLASS_MARKERS[(place + 5 * second) % len(CLASS_MARKERS)],
            edgecolors="black",
            linewidths=0.3,
        )
    return None


def _add_legend(figure: "Figure", axes: "Axes", classes: Sequence[str], single: bool) -> None:
    """Name the classes, beside a single picture and below several."""
    place: dict[str, Any] = {"loc": "outside right center", "ncols": 1, "markerscale": 1.5}
    if not single:
        place = {"loc": "outside lower center", "ncols": columns_of(classes), "markerscale": 1.8}
    names = [readable(name, LONGEST_CLASS) for name in classes]
    add_legend(figure, axes.collections, names, title="class", fontsize=8, title_fontsize=8, **place)


def columns_of(classes: Sequence[str]) -> int:
    """Tell in how many columns a legend of 600 pixels' width has room for the names of classes.

    Args:
        classes: Their names.

    Returns:
        5, or fewer of long names.
    """
    letters = max(len(readable(name, LONGEST_CLASS)) for name in classes)
    return max(1, min(5, 90 // (letters + 6)))


def write_animation(frames: Sequence[Frame], labels: Tensor, classes: Sequence[str], layer: str, path: Path) -> None:
    """Write embeddings as an endless GIF, half a second each and the last one two, with limits that never move.

    Args:
        frames: At least one, of the same images.
        labels: Class indices, ``(images,)``.
        classes: Names of the classes.
        layer: For the title.
        path: The file.
    """
    from PIL import Image

    names = list(frames[-1]["positions"])
    frames = [frame for frame in frames if list(frame["positions"]) == names]
    limits: dict[str, Limits] = {}
    for name in names:
        limits[name] = square_around(torch.cat([frame["positions"][name] for frame in frames]))
    pictures: list[Image.Image] = []
    for frame in frames:
        buffer = io.BytesIO()
        draw_embedding(frame, labels, classes, layer, limits).savefig(buffer, format="png")
        pictures.append(Image.open(buffer).convert("RGB").quantize(128))
    first, *others = pictures
    content = io.BytesIO()
    durations = [500] * len(others) + [2000]
    first.save(content, "GIF", save_all=True, append_images=others, duration=durations, loop=0)
    write_whole(path, with_end(content.getvalue(), "gif"))
