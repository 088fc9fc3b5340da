"""Figures 4 to 7 of the paper from what a reproduction has kept: the same bytes each time."""

import io
from typing import TYPE_CHECKING, Any

from primenet_lightning.figures.paper_figures import draw_choices, draw_embeddings, draw_losses, draw_phase_2
from primenet_lightning.reproduction._results import ONE_SCALE, Result, Results
from primenet_lightning.reproduction.report._remarks import head_start
from primenet_lightning.reproduction.report._wording import written

if TYPE_CHECKING:
    from matplotlib.figure import Figure

CURVES = {"training accuracy (%)": "train_accuracy", "training loss (nats)": "train_loss"}


def draw(results: Results) -> dict[str, bytes]:
    """Draw what can be drawn: PNG files by ``"figure4"`` to ``"figure7"``, without those whose parts are missing."""
    pictures = {name: figure(results) for name, figure in FIGURES.items()}
    return {name: picture for name, picture in pictures.items() if picture is not None}


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # matplotlib would name its own version
    figure.savefig(buffer, format="png", metadata={"Software": "primenet-lightning"})
    return buffer.getvalue()


def feature_maps(results: Results) -> bytes | None:
    """Draw figure 4: what each capsule makes of a few images, which is routed, and which a label would choose."""
    arrays = results.arrays("prime")
    return _png(draw_choices(arrays)) if arrays and "maps" in arrays else None


def loss_curves(results: Results) -> bytes | None:
    """Draw figure 5: the losses of the capsules and of the head, and their total, over training; of the first seed."""
    for first in results.of("prime")[:1]:
        losses: dict[str, list[float]] = first.extra.get("losses") or {}
        if losses.get("step"):
            title = f"Phase 1, seed {first.seed}; total: the routed capsule's and the head's"
            return _png(draw_losses(losses, title))
    return None


def embeddings(results: Results) -> bytes | None:
    """Draw figure 6: t-SNE of the features of PrimeNet and of ResNet-50, of the same images."""
    by_title = {}
    classes: list[str] = []
    for part, name in (("prime", "PrimeNet"), ("resnet50", "ResNet-50")):
        arrays = results.arrays(part)
        if arrays is None or "embedding" not in arrays:
            return None
        by_title[_title(results.of(part), name)] = arrays
        classes = classes or list(map(str, arrays["class_names"]))
    return _png(draw_embeddings(by_title, classes))


def _title(seeds: list[Result], name: str) -> str:
    """Of a network in figure 6, with its scores."""
    if not seeds:
        return name
    scores: dict[str, Any] = seeds[0].extra.get("separation") or {}
    lines = [f"{name}, {seeds[0].images:,} training images, seed {seeds[0].seed}"]
    if scores.get("silhouette") is not None:
        lines.append(f"in feature space: silhouette {written(scores['silhouette'], '.2f')}")
    if scores.get("neighbour_accuracy") is not None:
        lines.append(f"nearest neighbours right {100 * scores['neighbour_accuracy']:.1f} %")
    return "\n".join(lines)


def phase_2_curves(results: Results) -> bytes | None:
    """Draw figure 7: training accuracy and loss of phase 2, and of nets of one scale, of the seeds that all have."""
    names = {"probe": "PrimeNet, phase 2"} | {part: f"layer {size}x{size}" for part, size in ONE_SCALE.items()}
    seeds = set.intersection(*({result.seed for result in results.of(part)} for part in names))
    panels: dict[str, dict[str, list[list[float]]]] = {}
    for label, key in CURVES.items():
        panels[label] = {}
        for part, name in names.items():
            curves = [result.curves.get(key) or [] for result in results.of(part) if result.seed in seeds]
            if not curves or not all(curves):
                return None
            panels[label][name] = curves
    kind = f"mean of {len(seeds)} seeds, thin: each seed" if len(seeds) > 1 else "one seed"
    title = f"Phase 2 beside nets of one scale trained end to end ({kind}): {head_start(results)}"
    return _png(draw_phase_2(panels, title))


FIGURES = {"figure4": feature_maps, "figure5": loss_curves, "figure6": embeddings, "figure7": phase_2_curves}
"""By the paper's number."""
