"""Error and loss of phase 2 by epoch (figure 7 of the paper)."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from primenet_lightning.figures.style import COLOURS, new_figure, plain_log_scale

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class _ProbeCurves(Protocol):
    """What is drawn of a `primenet_lightning.analysis.probe.ProbeResult`.

    Attributes:
        train_accuracy: In %, by epoch, while learning.
        train_loss: In nats, likewise.
        validation_accuracy: In %, after each epoch.
        epochs_until_converged: See there.
        test_error: In %.
    """

    @property
    def train_accuracy(self) -> Sequence[float]: ...

    @property
    def train_loss(self) -> Sequence[float]: ...

    @property
    def validation_accuracy(self) -> Sequence[float]: ...

    @property
    def epochs_until_converged(self) -> int: ...

    @property
    def test_error(self) -> float: ...


def draw_probe(
    result: _ProbeCurves, layer: str, finetune: bool, phase1_test_error: float | None, within: float
) -> "Figure":
    """Draw error and loss by epoch of phase 2, on logarithmic axes.

    Args:
        result: What to draw.
        layer: Of the features, for the title.
        finetune: Whether the network learned as well.
        phase1_test_error: In %, for the title; None if it is not known.
        within: Percentage points of the last training accuracy within which a probe counts as converged.

    Returns:
        The figure.
    """
    figure = new_figure(9, 4)
    left, right = figure.subplots(1, 2)
    epochs = range(1, len(result.train_accuracy) + 1)
    # a point per epoch where they can be told apart
    look: dict[str, Any] = {}
    if len(epochs) <= 60:
        look = {"marker": "o", "markersize": 3}

    left.plot(epochs, _errors(result.train_accuracy), color=COLOURS[0], label="training, while learning", **look)
    dashed = {"color": COLOURS[1], "linestyle": "--"} | look
    left.plot(epochs, _errors(result.validation_accuracy), label="validation, after the epoch", **dashed)
    plain_log_scale(left)
    left.axvline(result.epochs_until_converged, color="grey", linestyle=":", linewidth=1)
    left.set_ylabel("error (%)")
    left.legend(title=f"dotted: training within {within} points of its last", loc="upper right", fontsize=8)

    right.plot(epochs, result.train_loss, color=COLOURS[0], **look)
    right.set_ylabel("training loss, while learning (nats)")
    plain_log_scale(right)

    for axes in (left, right):
        axes.set_xlabel("epoch of phase 2")
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3)

    title = "Linear probe of frozen features"
    if finetune:
        title = "Fine-tuned with a linear classifier"
    before = ""
    if phase1_test_error is not None:
        before = f"; phase 1: {phase1_test_error:.2f} %"
    figure.suptitle(f"{title} (layer {layer}): test error {result.test_error:.2f} %{before}")
    return figure


def _errors(accuracies: Sequence[float]) -> list[float]:
    """In percent; rounded to what is known, so that all right is 0."""
    return [round(100 - accuracy, 4) for accuracy in accuracies]
