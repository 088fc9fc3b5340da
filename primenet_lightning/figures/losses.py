"""Loss and accuracy of each learner over the training (figure 5 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.curves import Points, curve, curves_in, marked_every
from primenet_lightning.figures.style import add_legend, new_figure, plain_log_scale, style_of

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
    panels = [("training, averaged since the previous point", train), ("validation", validation)]
    return _draw_panels(panels, unit)


def draw_error_rates(train: Points, validation: Points) -> "Figure":
    """Draw errors in percent, in training on the left and in validation on the right.

    On a logarithmic axis: near 100 % accuracies could not be told from each other.

    Args:
        train: Accuracies by training batches, means of an epoch, in [0, 1]; may be empty, if ``validation`` is not.
        validation: Likewise.

    Returns:
        The figure.
    """
    panels = [("training, averaged over the epoch", _errors(train)), ("validation", _errors(validation))]
    return _draw_panels(panels, "error (%)")


def _errors(points: Points) -> Points:
    """Accuracies as errors in percent."""
    errors: list[tuple[int, dict[str, float]]] = []
    for batches, accuracies in points:
        # rounded to what float32 knows: all right is 0 % and not 6e-6
        errors.append((batches, {name: round(100 * (1 - share), 4) for name, share in accuracies.items()}))
    return errors


def _draw_panels(panels: Panels, label: str) -> "Figure":
    """Curves side by side, those without a point left out, with one legend beside them, where it hides no curve."""
    panels = [(title, points) for title, points in panels if points]
    figure = new_figure(8, 3.6)
    all_axes = list(figure.subplots(1, len(panels), sharey=True, squeeze=False)[0])
    for axes, (title, points) in zip(all_axes, panels, strict=True):
        _plot(axes, points)
        axes.set_title(title, fontsize="medium")
    plain_log_scale(*all_axes)
    all_axes[0].set_ylabel(label)
    _, points = panels[0]
    place: dict[str, Any] = {"loc": "outside right upper", "fontsize": "small", "handlelength": 3.2}
    add_legend(figure, all_axes[0].lines, curves_in(points), **place)
    return figure


def _plot(axes: "Axes", points: Points) -> None:
    names = curves_in(points)
    for name in names:
        batches, values = curve(name, points)
        every = marked_every(len(batches))
        axes.plot(batches, values, label=name, markersize=4, markevery=every, linewidth=1.2, **style_of(name, names))
    axes.set_xlabel("training batches")
    axes.grid(alpha=0.3, linewidth=0.5)
