"""The callbacks that a run has by itself, unless the user has given one of the kind."""

from collections.abc import Sequence
from typing import Any, cast

from lightning.pytorch import Callback, LightningModule
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from primenet_lightning.callbacks import (
    CapsuleLossCurves,
    ConfusionAndErrors,
    FeatureMaps,
    FeatureTSNE,
    LossProgressBar,
    RoutingMonitor,
)
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.runs.folder import RunFolder

LOOKING: tuple[Any, ...] = (CapsuleLossCurves, RoutingMonitor, FeatureTSNE, FeatureMaps, ConfusionAndErrors)
"""Callbacks that make the learning visible; without figures the first alone."""

AT_CAPSULES: tuple[Any, ...] = (RoutingMonitor, FeatureMaps)
"""Those of them that look at capsules."""

MOST_CLASSES: dict[Any, int] = {FeatureTSNE: 1000, ConfusionAndErrors: 5000}
"""With how many classes callbacks are made by default: t-SNE has so many images, and a confusion matrix grows by the
square."""


def has_capsules(model: LightningModule) -> bool:
    """Tell whether a model's network has capsules, between which it routes.

    Args:
        model: With a ``network``.

    Returns:
        False of a network that is trained end to end.
    """
    return hasattr(model.network, "capsule_names")


def looking(
    model: LightningModule,
    run: RunFolder,
    figures: bool,
    given: Sequence[Callback],
    figure_format: FigureFormat = "png",
    divided: bool = False,
) -> list[Callback]:
    """Make the callbacks that make a model's learning visible.

    Args:
        model: To be trained.
        run: Where they draw.
        figures: Whether to look at more than the losses.
        given: The user's own callbacks; none of their kinds is made again.
        figure_format: Kind of the files of figures.
        divided: Whether each process has a part of the network, as in a pipeline: what looks at all of it is left out.

    Returns:
        The callbacks, in order.
    """
    kinds = LOOKING if figures else LOOKING[:1]
    classes = cast(int, model.num_classes)
    callbacks: list[Callback] = []
    for kind in kinds:
        suits = has_capsules(model) or kind not in AT_CAPSULES
        if not suits or any_of(given, kind):
            continue
        if divided and getattr(kind, "needs_whole_network", False):
            rank_zero_info(
                f"{kind.__name__} is left out: it looks at the whole network, of which each process has a part"
            )
            continue
        most = MOST_CLASSES.get(kind, classes)
        if classes > most:
            rank_zero_warn(
                f"{kind.__name__} is left out: the data have {classes:,} classes, and by default it takes at "
                f"most {most:,}; give it to trainer.callbacks with options of your own, or leave it out"
            )
            continue
        callbacks.append(kind(folder=run.path, figure_format=figure_format))
    return callbacks


def progress_bar(enabled: bool | None, given: Sequence[Callback]) -> list[Callback]:
    """Make the progress bar.

    Args:
        enabled: As the Trainer's ``enable_progress_bar``; None is yes.
        given: The user's own callbacks.

    Returns:
        It, or nothing where it is not wanted or another one is given.
    """
    if enabled is False or any_of(given, ProgressBar):
        return []
    return [LossProgressBar()]


def timer(max_time: Any) -> Timer:
    """Make the timer, which also stops the fit.

    Args:
        max_time: As the Trainer's; None is no end.

    Returns:
        The timer.

    Raises:
        ValueError: If it is no duration.
    """
    try:
        return Timer(max_time)
    except Exception as error:  # Lightning's own kind
        raise ValueError(f"trainer.max_time={max_time} is no duration; give DD:HH:MM:SS, as 00:01:30:00") from error


def any_of(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    """Tell whether a callback of a kind is there.

    Args:
        callbacks: To look among.
        kind: A class.

    Returns:
        Whether one is of that class, or of a subclass.
    """
    return any(isinstance(callback, kind) for callback in callbacks)
