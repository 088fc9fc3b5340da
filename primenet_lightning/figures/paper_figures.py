"""Figures 4 to 7 of the paper, as a reproduction shows them."""

import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from primenet_lightning.figures.embedding import (
    LONGEST_CLASS,
    MOST_MARKED,
    columns_of,
    scatter_classes,
    square_around,
)
from primenet_lightning.figures.feature_maps import tiled
from primenet_lightning.figures.style import (
    COLOURS,
    LINE_STYLES,
    add_legend,
    new_figure,
    plain_log_scale,
    readable,
    style_of,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Arrays = Mapping[str, NDArray[Any]]
Curves = Sequence[Sequence[float]]

LEAST_DROP = 5.0
"""Largest loss by smallest, below which a linear axis tells more."""

# -- figure 4: feature maps and the choice among them ------------------------------------------------------------------


def draw_choices(arrays: Arrays) -> "Figure":
    """Draw what each capsule makes of a few images, which one is routed, and which one a label would choose.

    Args:
        arrays: As of `primenet_lightning.reproduction._evaluation.figure_maps`.

    Returns:
        The figure, one row per image.
    """
    names = list(map(str, arrays["capsule_names"]))
    rows, capsules = arrays["maps"].shape[:2]
    width = max(7.0, 1.3 * (capsules + 1.8))
    figure = new_figure(width, 0.75 + rows * (width / (capsules + 1.8) + 0.62))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.03, h_pad=0.05, hspace=0.02, wspace=0.06)
    table = figure.subplots(rows, capsules + 2, squeeze=False, width_ratios=[1.0] * (capsules + 1) + [0.8])
    for row, (image, *cells, head) in enumerate(table):
        _draw_image(image, arrays, row)
        for capsule, axes in enumerate(cells):
            _draw_maps(axes, arrays, row, capsule, names)
        verdict = _verdict(arrays, int(arrays["head_verdicts"][row]), row, "\n")
        head.text(0.5, 0.5, f"head:\n{verdict}", ha="center", va="center", fontsize=9)
        head.set_frame_on(False)
        for axes in table[row]:
            axes.set(xticks=[], yticks=[])
    figure.suptitle(
        "Strongest channels of each capsule (bright: strong), its cross-entropy on the image and its verdict.\n"
        "Framed: routed at inference, without the label. Least loss: what the label would choose.",
        fontsize=9,
    )
    return figure


def _draw_image(axes: "Axes", arrays: Arrays, row: int) -> None:
    axes.imshow(arrays["pixels"][row], cmap="gray", vmin=0, vmax=255)
    name = arrays["class_names"][int(arrays["labels"][row])]
    axes.set_title(f"image of class\n{readable(name, 14)}", fontsize=8)
    axes.set_frame_on(False)


def _draw_maps(axes: "Axes", arrays: Arrays, row: int, capsule: int, names: Sequence[str]) -> None:
    maps = torch.from_numpy(np.array(arrays["maps"][row, capsule], dtype=np.float32))
    axes.imshow(tiled(maps).numpy(), cmap="viridis", interpolation="nearest")
    verdict = _verdict(arrays, int(arrays["verdicts"][row, capsule]), row, ", ")
    name, loss = readable(_full(names[capsule]), 14), float(arrays["losses"][row, capsule])
    axes.set_title(f"{name}: {loss:.3g} nats\n{verdict}", fontsize=8)
    routed, least = int(arrays["routed"][row]) == capsule, int(arrays["least_loss"][row]) == capsule
    axes.set_frame_on(routed)
    for spine in axes.spines.values():
        spine.set(linewidth=4, color=_style(names[capsule], names)["color"])
    lines = ["routed"] * routed + ["* least loss, by label"] * least
    axes.set_xlabel("\n".join(lines), fontsize=8, fontweight="bold" if routed else "normal", labelpad=4)


def _verdict(arrays: Arrays, answer: int, row: int, between: str) -> str:
    judgement = "right" if answer == int(arrays["labels"][row]) else "wrong"
    return f"{readable(arrays['class_names'][answer], 14)}{between}{judgement}"


def _full(name: str) -> str:
    """The name that a capsule has in every figure; a reproduction keeps it without that of its only block."""
    if name in ("head", "total"):
        return name
    return f"block0.{name}"


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """The look of a learner in all figures."""
    return style_of(_full(name), [_full(other) for other in names])


# -- figure 5: losses --------------------------------------------------------------------------------------------------


def draw_losses(losses: Mapping[str, Sequence[float]], title: str) -> "Figure":
    """Draw the losses of the capsules and of the head, and their total, over training.

    Args:
        losses: By name, in nats, of the batches ``"step"``.
        title: Of the figure.

    Returns:
        The figure.
    """
    capsules = [name for name in losses if name not in ("step", "head", "total")]
    figure = new_figure(8, 4)
    axes = figure.subplots()
    every = max(1, len(losses["step"]) // 12)
    curves = [name for name in (*capsules, "head", "total") if name in losses]
    for name in curves:
        look = _style(name, capsules) | {"markersize": 4, "markevery": every, "linewidth": 1.2}
        axes.plot(losses["step"], losses[name], label=_full(name), **look)
    _log_scale(axes)
    axes.set_xlabel("training batches")
    axes.set_ylabel("training loss (nats)")
    axes.set_title(title, fontsize="medium")
    axes.grid(alpha=0.3, linewidth=0.5)
    names = list(map(_full, curves))
    place: dict[str, Any] = {"loc": "outside right upper", "fontsize": "small", "handlelength": 3.2}
    add_legend(figure, axes.lines, names, **place)
    return figure


def _log_scale(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, unless so little falls that it would have hardly a number on it."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    positive = drawn[drawn > 0]  # false of what is not a number, too
    if positive.size and positive.max() > LEAST_DROP * positive.min():
        plain_log_scale(axes)


# -- figure 6: clusters ------------------------------------------------------------------------------------------------


def draw_embeddings(embeddings: Mapping[str, Arrays], classes: Sequence[str]) -> "Figure":
    """Draw the features of two networks, embedded in the plane, side by side.

    Args:
        embeddings: By title: ``"embedding"`` (images, 2) and ``"embedding_labels"`` (images,).
        classes: Names of the classes.

    Returns:
        The figure.
    """
    figure = new_figure(8, 5.5)
    panels = figure.subplots(1, 2)
    scatter: Any = None
    for axes, (title, arrays) in zip(panels, embeddings.items(), strict=True):
        positions = torch.from_numpy(np.array(arrays["embedding"]))
        labels = torch.from_numpy(np.array(arrays["embedding_labels"]))
        scatter = scatter_classes(axes, positions, labels, classes, 0.6)
        left, right, bottom, top = square_around(positions)
        axes.set(xlim=(left, right), ylim=(bottom, top), box_aspect=1, xticks=[], yticks=[])
        axes.set_xlabel("t-SNE 1", fontsize=8)
        axes.set_ylabel("t-SNE 2", fontsize=8)
        axes.set_title(title, fontsize=9)
    if len(classes) > MOST_MARKED:
        figure.colorbar(scatter, ax=list(panels), label="class index", shrink=0.8)
        return figure
    place: dict[str, Any] = {"loc": "outside lower center", "ncols": columns_of(classes)}
    names = [readable(name, LONGEST_CLASS) for name in classes]
    add_legend(
        figure, panels[0].collections, names, title="class", fontsize=8, title_fontsize=8, markerscale=2, **place
    )
    return figure


# -- figure 7: phase 2 -------------------------------------------------------------------------------------------------


def draw_phase_2(panels: Mapping[str, Mapping[str, Curves]], title: str) -> "Figure":
    """Draw the training curves of phase 2 beside those of nets of one scale.

    Args:
        panels: By what is on the vertical axis, the second a loss: curves by network, phase 2 first, one per seed.
        title: Of the figure.

    Returns:
        The figure. Thick lines are means over the seeds, thin ones these seeds.
    """
    figure = new_figure(8, 4)
    both = figure.subplots(1, 2)
    for axes, (label, networks) in zip(both, panels.items(), strict=True):
        for index, (name, curves) in enumerate(networks.items()):
            # the capsules' colours for their scales, black for what is fitted on top, as the head is
            look: dict[str, Any] = {"color": "black", "linestyle": "-"}
            if index:
                look = {"color": COLOURS[index - 1], "linestyle": LINE_STYLES[index]}
            _plot_seeds(axes, curves, name, look)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, linewidth=0.5)
    _log_scale(both[1])
    figure.suptitle(textwrap.fill(title, 100), fontsize="medium")
    handles, labels = both[0].get_legend_handles_labels()
    place: Any = "outside lower center"
    figure.legend(handles, labels, loc=place, ncols=4, fontsize="small", handlelength=3.2)
    return figure


def _plot_seeds(axes: "Axes", curves: Curves, name: str, look: Mapping[str, Any]) -> None:
    length = min(map(len, curves))
    mean = np.mean([curve[:length] for curve in curves], axis=0)
    marked: Any = "o" if length == 1 else None
    axes.plot(range(1, length + 1), mean, label=name, marker=marked, **look)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(range(1, len(curve) + 1), curve, linewidth=0.5, alpha=0.6, **look)
