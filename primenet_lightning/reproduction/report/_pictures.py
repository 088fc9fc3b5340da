"""Figures 4 to 7 of the paper from what a reproduction has kept: the same bytes each time."""

import io
import textwrap
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from primenet_lightning.figures.embedding import MOST_MARKED, scatter_classes, square_around
from primenet_lightning.figures.feature_maps import tiled
from primenet_lightning.figures.style import COLOURS, LINE_STYLES, new_figure, plain_log_scale, style_of
from primenet_lightning.reproduction.report._remarks import head_start
from primenet_lightning.reproduction.report._wording import written
from primenet_lightning.reproduction.results import ONE_SCALE, Result, Results

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

Array = NDArray[Any]

LEAST_DROP = 5.0
"""Largest loss by smallest, below which a linear axis tells more."""


def draw(results: Results) -> dict[str, bytes]:
    """Draw what can be drawn."""
    drawn = {name: figure(results) for name, figure in FIGURES.items()}
    return {name: picture for name, picture in drawn.items() if picture is not None}


def _png(figure: "Figure") -> bytes:
    buffer = io.BytesIO()
    # matplotlib would name its own version
    figure.savefig(buffer, format="png", metadata={"Software": "primenet-lightning"})
    return buffer.getvalue()


def feature_maps(results: Results) -> bytes | None:
    """Draw figure 4: what each capsule makes of a few images, which is routed, and which a label would choose."""
    arrays = results.arrays("prime")
    if arrays is None or "maps" not in arrays:
        return None
    names = [str(name) for name in arrays["capsule_names"]]
    rows, capsules = arrays["maps"].shape[:2]
    width = max(7.0, 1.3 * (capsules + 1.8))
    cell = width / (capsules + 1.8)
    figure = new_figure(width, 0.75 + rows * (cell + 0.62))
    layout: Any = figure.get_layout_engine()
    layout.set(w_pad=0.03, h_pad=0.05, hspace=0.02, wspace=0.06)
    table = figure.subplots(rows, capsules + 2, squeeze=False, width_ratios=[1.0] * (capsules + 1) + [0.8])
    for row, axes in enumerate(table):
        _draw_image(axes[0], arrays, row)
        for capsule in range(capsules):
            _draw_maps(axes[1 + capsule], arrays, row, capsule, names)
        said = _said(arrays, int(arrays["head_verdicts"][row]), row, "\n")
        axes[-1].text(0.5, 0.5, f"head:\n{said}", ha="center", va="center", fontsize=9)
        axes[-1].set_frame_on(False)
        for place in axes:
            place.set(xticks=[], yticks=[])
    figure.suptitle(
        "Strongest channels of each capsule (bright: strong), its cross-entropy on the image and its verdict.\n"
        "Framed: routed at inference, without the label. Least loss: what the label would choose.",
        fontsize=9,
    )
    return _png(figure)


def _draw_image(axes: "Axes", arrays: Mapping[str, Array], row: int) -> None:
    axes.imshow(arrays["pixels"][row], cmap="gray", vmin=0, vmax=255)
    axes.set_title(f"image of class\n{arrays['class_names'][int(arrays['labels'][row])]}", fontsize=8)
    axes.set_frame_on(False)


def _draw_maps(axes: "Axes", arrays: Mapping[str, Array], row: int, capsule: int, names: list[str]) -> None:
    maps = torch.from_numpy(np.array(arrays["maps"][row, capsule], dtype=np.float32))
    axes.imshow(tiled(maps).numpy(), cmap="viridis", interpolation="nearest")
    verdict = _said(arrays, int(arrays["verdicts"][row, capsule]), row, ", ")
    axes.set_title(f"{names[capsule]}: {float(arrays['losses'][row, capsule]):.3g} nats\n{verdict}", fontsize=8)
    routed, least = (int(arrays[key][row]) == capsule for key in ("routed", "least_loss"))
    axes.set_frame_on(routed)
    for spine in axes.spines.values():
        spine.set(linewidth=4, color=_style(names[capsule], names)["color"])
    lines = ["routed"] * routed + ["* least loss, by label"] * least
    axes.set_xlabel("\n".join(lines), fontsize=8, fontweight="bold" if routed else "normal", labelpad=4)


def _said(arrays: Mapping[str, Array], said: int, row: int, between: str) -> str:
    return f"{arrays['class_names'][said]}{between}{'right' if said == int(arrays['labels'][row]) else 'wrong'}"


def _style(name: str, names: Sequence[str]) -> dict[str, Any]:
    """The look of a learner in all figures; here capsules go without the name of their block."""
    if name in ("head", "total"):
        return style_of(name, ())
    return style_of(f"block0.{name}", [f"block0.{other}" for other in names])


def loss_curves(results: Results) -> bytes | None:
    """Draw figure 5: the losses of the capsules and of the head, and their total, over training."""
    found = results.of("prime")
    losses: dict[str, list[float]] = (found[0].extra.get("losses") or {}) if found else {}
    if not losses.get("step"):
        return None
    capsules = [name for name in losses if name not in ("step", "head", "total")]
    figure = new_figure(8, 4)
    axes = figure.subplots()
    for name in (*capsules, *(name for name in ("head", "total") if name in losses)):
        every = max(1, len(losses["step"]) // 12)
        look = _style(name, capsules)
        axes.plot(losses["step"], losses[name], label=name, markersize=4, markevery=every, linewidth=1.2, **look)
    _log_scale(axes)
    axes.set_xlabel("training batches")
    axes.set_ylabel("training loss (nats)")
    axes.set_title(f"Phase 1, seed {found[0].seed}; total: the routed capsule's and the head's", fontsize="medium")
    axes.grid(alpha=0.3, linewidth=0.5)
    figure.legend(loc="outside right upper", fontsize="small", handlelength=3.2)
    return _png(figure)


def _log_scale(axes: "Axes") -> None:
    """Make the vertical axis logarithmic, unless so little falls that it would have hardly a number on it."""
    drawn = np.concatenate([np.asarray(line.get_ydata(), dtype=float) for line in axes.lines])
    positive = drawn[drawn > 0]  # false of what is not a number, too
    if positive.size and positive.max() > LEAST_DROP * positive.min():
        plain_log_scale(axes)


def embeddings(results: Results) -> bytes | None:
    """Draw figure 6: t-SNE of the features of PrimeNet and of ResNet-50, of the same images."""
    both = {"prime": "PrimeNet", "resnet50": "ResNet-50"}
    arrays = {part: results.arrays(part) for part in both}
    ours = arrays["prime"]
    if ours is None or any(found is None or "embedding" not in found for found in arrays.values()):
        return None
    classes = [str(name) for name in ours["class_names"]]
    figure = new_figure(8, 5.5)
    panels = figure.subplots(1, 2)
    drawn: Any = None
    for axes, (part, name) in zip(panels, both.items(), strict=True):
        found = arrays[part]
        assert found is not None
        positions, labels = (torch.from_numpy(np.array(found[key])) for key in ("embedding", "embedding_labels"))
        drawn = scatter_classes(axes, positions, labels, classes, 0.6)
        left, right, bottom, top = square_around(positions)
        axes.set(xlim=(left, right), ylim=(bottom, top), box_aspect=1, xticks=[], yticks=[])
        axes.set_xlabel("t-SNE 1", fontsize=8)
        axes.set_ylabel("t-SNE 2", fontsize=8)
        axes.set_title(_embedded(results.of(part), name), fontsize=9)
    if len(classes) > MOST_MARKED:
        figure.colorbar(drawn, ax=list(panels), label="class index", shrink=0.8)
    else:
        handles, labels_of = panels[0].get_legend_handles_labels()
        place: Any = "outside lower center"
        figure.legend(
            handles, labels_of, title="class", loc=place, ncols=5, fontsize=8, title_fontsize=8, markerscale=2
        )
    return _png(figure)


def _embedded(found: Sequence[Result], name: str) -> str:
    if not found:
        return name
    first = found[0]
    scores: Mapping[str, float | None] = first.extra.get("separation") or {}
    silhouette, neighbours = scores.get("silhouette"), scores.get("neighbour_accuracy")
    said = [f"{name}, {first.images:,} training images, seed {first.seed}"]
    if silhouette is not None:
        said.append(f"in feature space: silhouette {written(silhouette, '.2f')}")
    if neighbours is not None:
        said.append(f"nearest neighbours right {100 * neighbours:.1f} %")
    return "\n".join(said)


def phase_2_curves(results: Results) -> bytes | None:
    """Draw figure 7: training accuracy and loss of phase 2, and of nets of one scale."""
    names = {"probe": "PrimeNet, phase 2", **{part: f"layer {part[-1]}x{part[-1]}" for part in ONE_SCALE}}
    curves = (("train_accuracy", "training accuracy (%)"), ("train_loss", "training loss (nats)"))
    found = {part: {result.seed: result.curves for result in results.of(part)} for part in names}
    seeds = sorted(set.intersection(*(set(some) for some in found.values())))
    if not seeds or not all(some[seed].get(key) for some in found.values() for seed in seeds for key, _ in curves):
        return None
    figure = new_figure(8, 4)
    panels = figure.subplots(1, 2)
    for axes, (key, label) in zip(panels, curves, strict=True):
        for index, (part, name) in enumerate(names.items()):
            # the capsules' colours for their scales, black for what is fitted on top, as the head is
            look: dict[str, Any] = {"color": "black", "linestyle": "-"}
            if index:
                look = {"color": COLOURS[index - 1], "linestyle": LINE_STYLES[index]}
            _plot_seeds(axes, [found[part][seed][key] for seed in seeds], name, look)
        axes.set_xlabel("epoch")
        axes.set_ylabel(label)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.grid(alpha=0.3, linewidth=0.5)
    _log_scale(panels[1])
    kind = f"mean of {len(seeds)} seeds, thin: each seed" if len(seeds) > 1 else "one seed"
    title = f"Phase 2 beside nets of one scale trained end to end ({kind}): {head_start(results)}"
    figure.suptitle(textwrap.fill(title, 100), fontsize="medium")
    handles, labels = panels[0].get_legend_handles_labels()
    place: Any = "outside lower center"
    figure.legend(handles, labels, loc=place, ncols=4, fontsize="small", handlelength=3.2)
    return _png(figure)


def _plot_seeds(axes: "Axes", curves: Sequence[Sequence[float]], name: str, look: Mapping[str, Any]) -> None:
    length = min(map(len, curves))
    epochs = range(1, length + 1)
    marked: Any = "o" if length == 1 else None
    axes.plot(epochs, np.mean([curve[:length] for curve in curves], axis=0), label=name, marker=marked, **look)
    if len(curves) > 1:
        for curve in curves:
            axes.plot(range(1, len(curve) + 1), curve, linewidth=0.5, alpha=0.6, **look)


FIGURES = {"figure4": feature_maps, "figure5": loss_curves, "figure6": embeddings, "figure7": phase_2_curves}
"""By the paper's number."""
