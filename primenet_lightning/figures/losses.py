"""Loss and accuracy of each learner over the training (figure 5 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from primenet_lightning.figures.curves import Points, curve, curves_in, marked_every
from primenet_lightning.figures.style import new_figure, plain_log_scale, style_of

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Panels = Sequence[tuple[str, Points]]
"""Title and curves of each panel."""


def draw_losses(train: Points, validation: Points, unit: str) -> "Figure":
    """Draw losses, in training on the left and in validation on the right.

    Args:
        train: By training batches, means since the point before.
        validation: By training batches; may be empty.
        unit: What the losses are.

    Returns:
        The figure.
    """
    panels = [("training, mean since the point before", train), ("validation", validation)]
    figure, all_axes = _draw_panels(panels, unit)
    for axes in all_axes:
        plain_log_scale(axes)
    return figure


def draw_accuracies(train: Points, validation: Points) -> "Figure":
    """Draw accuracies in percent, in training on the left and in validation on the right.

    Args:
        train: By training batches, means of an epoch, in [0, 1]; may be empty, if ``validation`` is not.
        validation: Likewise.

    Returns:
        The figure.
    """
    panels = [("training, mean of the epoch", _in_percent(train)), ("validation", _in_percent(validation))]
    figure, _ = _draw_panels(panels, "accuracy (%)")
    return figure


def _in_percent(points: Points) -> Points:
    return [(batches, {name: 100 * share for name, share in shares.items()}) for batches, shares in points]


def _draw_panels(panels: Panels, label: str) -> "tuple[Figure, list[Axes]]":
    """Curves side by side, those without a point left out, with one legend beside them, where it hides no curve."""
    panels = [(title, points) for title, points in panels if points]
    figure = new_figure(8, 3.6)
    all_axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    for axes, (title, points) in zip(all_axes, panels, strict=True):
        _plot(axes, points)
        axes.set_title(title, fontsize="medium")
    all_axes[0].set_ylabel(label)
    handles, labels = all_axes[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right upper", fontsize="small", handlelength=3.2)
    return figure, all_axes


def _plot(axes: "Axes", points: Points) -> None:
    names = curves_in(points)
    for name in names:
        batches, values = curve(name, points)
        every = marked_every(len(batches))
        axes.plot(batches, values, label=name, markersize=4, markevery=every, linewidth=1.2, **style_of(name, names))
    axes.set_xlabel("training batches")
    axes.grid(alpha=0.3, linewidth=0.5)
