"""Routing over the epochs: shares of the capsules, and how sure and how steady the choice is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.curves import Points, curve, marked_every
from primenet_lightning.figures.style import COLOURS, LINE_STYLES, new_figure, style_of
from primenet_lightning.nn.names import LearnerName, learners_of, stages_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

GREYS = ("black", "0.35", "0.5", "0.62")
BLOCK_MARKERS = ("o", "s", "^", "D")

OF_BLOCKS = {"margin": "margin (nats)", "switches": "switches a batch"}
"""What there is of a block, and how it is labelled."""


def draw_routing(history: Points) -> "Figure":
    """Draw shares by block on the left; margin and switches, a line a block, on the right.

    Args:
        history: By epoch: ``share/<capsule>``, ``margin/<block>``, ``switches/<block>``; not empty.

    Returns:
        The figure.
    """
    # what there is to draw
    _, newest = history[-1]
    capsules: list[str] = []
    for key in newest:
        if key.startswith("share/"):
            capsules.append(key.removeprefix("share/"))
    blocks = stages_of(capsules)
    kinds = [kind for kind in OF_BLOCKS if _is_there(kind, blocks, newest)]

    # shares on the left, one block below the other
    figure = new_figure(6.4, max(3.9, 1.3 * len(blocks) + 1.2))
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1])
    axes_of_shares = grid[0].subgridspec(len(blocks), 1).subplots(sharex=True, squeeze=False)[:, 0]
    for axes, block in zip(axes_of_shares, blocks, strict=True):
        _plot_shares(axes, history, learners_of(block, capsules), capsules)
        axes.set_ylabel(f"{block}:\nshare of batches" if len(blocks) < 4 else f"{block}: share")

    # what is of blocks on the right
    axes_of_blocks = grid[1].subgridspec(len(kinds), 1).subplots(sharex=True, squeeze=False)[:, 0]
    for axes, kind in zip(axes_of_blocks, kinds, strict=True):
        _plot_blocks(axes, history, kind, blocks)
        axes.set_ylabel(OF_BLOCKS[kind])

    # axes and legends
    for axes in (*axes_of_shares, *axes_of_blocks):
        _count_epochs(axes, history)
    axes_of_shares[-1].set_xlabel("epoch")
    axes_of_blocks[-1].set_xlabel("epoch")
    handles, labels = _legend_of(list(axes_of_shares))
    figure.legend(
        handles, labels, loc="outside upper center", ncols=min(8, len(handles)), fontsize=8, columnspacing=1.2
    )
    if len(blocks) > 1:
        # above the axes, where it hides no line
        axes_of_blocks[0].legend(loc="lower center", bbox_to_anchor=(0.5, 1), fontsize=7.5, ncols=2, handlelength=3)
    return figure


def _is_there(kind: str, blocks: Sequence[str], means: Mapping[str, float]) -> bool:
    return any(f"{kind}/{block}" in means for block in blocks)


def _count_epochs(axes: "Axes", history: Points) -> None:
    """Make the horizontal axis one of epochs, with a grid."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(history[0][0] - 0.5, history[-1][0] + 0.5)


def _plot_shares(axes: "Axes", history: Points, names: Sequence[str], all_names: Sequence[str]) -> None:
    for place, name in enumerate(names):
        epochs, shares = curve(f"share/{name}", history)
        style = style_of(name, all_names)
        if place >= len(COLOURS):  # colours and markers begin again; these markers are hollow
            style["markerfacecolor"] = "white"
        axes.plot(epochs, shares, label=name, **_sizes(len(epochs)), **style)
    axes.set_ylim(-0.05, 1.05)
    axes.set_yticks([0, 0.5, 1])


def _plot_blocks(axes: "Axes", history: Points, kind: str, blocks: Sequence[str]) -> None:
    for place, block in enumerate(blocks):
        epochs, values = curve(f"{kind}/{block}", history)
        if not epochs:
            continue
        axes.plot(
            epochs,
            values,
            label=block,
            color=GREYS[place % len(GREYS)],
            linestyle=LINE_STYLES[place % len(LINE_STYLES)],
            marker=BLOCK_MARKERS[place % len(BLOCK_MARKERS)],
            markerfacecolor="white",
            **_sizes(len(epochs)),
        )
    top = max(axes.get_ylim()[1], 0.05)
    axes.set_ylim(-0.04 * top, top)  # markers at 0 are seen whole


def _sizes(count: int) -> dict[str, Any]:
    return {"markersize": 4.5, "linewidth": 1.2, "markevery": marked_every(count)}


def _legend_of(all_axes: Sequence["Axes"]) -> tuple[list[Any], list[str]]:
    """One entry a capsule for blocks that have the same capsules, else one a block and capsule."""
    handles: list[Any] = []
    labels: list[str] = []
    short_labels: list[list[str]] = []
    for axes in all_axes:
        own_handles, own_labels = axes.get_legend_handles_labels()
        handles += own_handles
        labels += own_labels
        short_labels.append([LearnerName.parse(label).short for label in own_labels])
    first = short_labels[0]
    if short_labels.count(first) == len(short_labels):
        return handles[: len(first)], first
    return handles, labels
