"""Routing over the epochs: the capsules' shares of batches, and how sure and how steady the choice is."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.curves import Points, curve, marked_every
from primenet_lightning.figures.style import COLOURS, LINE_STYLES, add_legend, new_figure, style_of
from primenet_lightning.nn.names import learners_of, stages_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.lines import Line2D

GREYS = ("black", "0.35", "0.5", "0.62")
BLOCK_MARKERS = ("o", "s", "^", "D")

MOST_COLUMNS = 6
"""Of the legend, at 640 pixels."""

OF_CAPSULES = {"share": "share of\nbatches routed", "least_loss": "share with\nthe least loss"}
"""What there is of a capsule, and how it is labelled; of a block's capsules it is the one or the other."""

OF_BLOCKS = {
    "margin": "margin (nats)",
    "switches": "switches per batch",
    "changes": "changes of the least\nloss, per batch",
}
"""What there is of a block, and how it is labelled."""


def draw_routing(history: Points) -> "Figure":
    """Draw shares by block on the left; margin and switches, a line per block, on the right.

    Args:
        history: By epoch: ``share/<capsule>`` or ``least_loss/<capsule>``, ``margin/<block>``, ``switches/<block>`` or
            ``changes/<block>``; not empty.

    Returns:
        The figure.
    """
    # what there is to draw
    _, newest = history[-1]
    kind_by_capsule = _kinds_of_capsules(newest)
    capsules = list(kind_by_capsule)
    blocks = stages_of(capsules)
    kinds = [kind for kind in OF_BLOCKS if _is_there(kind, blocks, newest)]
    most = max(len(learners_of(block, capsules)) for block in blocks)
    columns = min(most, MOST_COLUMNS)

    # shares on the left, one block below the other
    rows_of_legend = len(capsules) / columns
    figure = new_figure(6.4, max(3.9, 1.3 * len(blocks) + 0.9 + 0.2 * rows_of_legend))
    grid = figure.add_gridspec(1, 2, width_ratios=[1.25, 1])
    axes_of_shares = grid[0].subgridspec(len(blocks), 1).subplots(sharex=True, squeeze=False)[:, 0]
    lines: dict[str, Any] = {}
    for axes, block in zip(axes_of_shares, blocks, strict=True):
        names = learners_of(block, capsules)
        for name in names:
            lines[name] = _plot_share(axes, history, f"{kind_by_capsule[name]}/{name}", names.index(name), capsules)
        axes.set_ylabel(f"{block}: {OF_CAPSULES[kind_by_capsule[names[0]]]}", fontsize=8 if len(blocks) > 2 else 9)
        axes.set_ylim(-0.05, 1.05)
        axes.set_yticks([0, 0.5, 1])

    # what is of blocks on the right
    axes_of_blocks = grid[1].subgridspec(len(kinds), 1).subplots(sharex=True, squeeze=False)[:, 0]
    for axes, kind in zip(axes_of_blocks, kinds, strict=True):
        _plot_blocks(axes, history, kind, blocks)
        axes.set_ylabel(OF_BLOCKS[kind], fontsize=9)

    # axes and legends
    for axes in (*axes_of_shares, *axes_of_blocks):
        _count_epochs(axes, history)
    axes_of_shares[-1].set_xlabel("epoch")
    axes_of_blocks[-1].set_xlabel("epoch")
    names = _row_by_row(capsules, blocks, columns)
    place: dict[str, Any] = {"loc": "outside upper center", "ncols": columns, "fontsize": 8, "columnspacing": 1.2}
    add_legend(figure, [lines[name] for name in names], names, **place)
    if len(blocks) > 1:
        # above the axes, where it hides no line
        place = {"loc": "lower center", "bbox_to_anchor": (0.5, 1), "fontsize": 7.5, "ncols": 2, "handlelength": 3}
        line_by_block = {str(line.get_label()): line for axes in axes_of_blocks for line in axes.lines}
        add_legend(axes_of_blocks[0], list(line_by_block.values()), list(line_by_block), **place)
    return figure


def _kinds_of_capsules(means: Mapping[str, float]) -> dict[str, str]:
    """Which share there is of each capsule, in order."""
    kind_by_capsule: dict[str, str] = {}
    for key in means:
        kind, _, name = key.partition("/")
        if kind in OF_CAPSULES:
            kind_by_capsule[name] = kind
    return kind_by_capsule


def _row_by_row(capsules: Sequence[str], blocks: Sequence[str], columns: int) -> list[str]:
    """The order in which matplotlib, which fills a legend column by column, writes each block into a row of its own."""
    rows = [learners_of(block, capsules) for block in blocks]
    if any(len(row) != columns for row in rows):
        return list(capsules)
    return [row[column] for column in range(columns) for row in rows]


def _is_there(kind: str, blocks: Sequence[str], means: Mapping[str, float]) -> bool:
    return any(f"{kind}/{block}" in means for block in blocks)


def _count_epochs(axes: "Axes", history: Points) -> None:
    """Make the horizontal axis one of epochs, with a grid."""
    from matplotlib.ticker import MaxNLocator

    axes.grid(alpha=0.3, linewidth=0.5)
    axes.tick_params(labelsize=8)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1))
    axes.set_xlim(history[0][0] - 0.5, history[-1][0] + 0.5)


def _plot_share(axes: "Axes", history: Points, key: str, place: int, capsules: Sequence[str]) -> "Line2D":
    _, _, name = key.partition("/")
    epochs, shares = curve(key, history)
    style = style_of(name, capsules)
    if place >= len(COLOURS):  # colours and markers begin again; these markers are hollow
        style["markerfacecolor"] = "white"
    (line,) = axes.plot(epochs, shares, label=name, **_sizes(len(epochs)), **style)
    return line


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
