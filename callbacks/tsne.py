"""t-SNE of what the network has learned to see in a fixed sample of the validation images."""

import io
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from primenet_lightning.analysis.features import FeatureLayer, last_linear, pooled
from primenet_lightning.callbacks.capsule_views import as_pixels, names_of_classes, view_capsules
from primenet_lightning.callbacks.figures import new_figure, publish, publish_table, style_of
from primenet_lightning.callbacks.sample import BalancedSample, SampleCallback
from primenet_lightning.models.prime import PrimeNet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LAYERS = {
    "head": "Features before the head's last layer",
    "routed": "Routed map and projection, pooled to 4x4",
    "capsules": "Each capsule's map, pooled to 4x4",
}

FEWEST = 10
"""Images below which neighbourhoods mean nothing."""

BATCH = 250
"""Images that go through the network at a time."""

# Petroff's ten colours, told apart by colour-blind readers; figures.COLOURS are seven, and are the capsules'.
CLASS_COLOURS = (
    *("#3f90da", "#ffa90e", "#bd1f01", "#94a4a2", "#832db6"),
    *("#a96b59", "#e76300", "#b9ac70", "#717581", "#92dadd"),
)
CLASS_MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*", "<", "p")
MOST_MARKED = 20
"""Classes that colour and marker together can tell apart; of more, a colour bar tells roughly."""


class Frame(TypedDict):
    """One embedding.

    Attributes:
        epoch: Epochs that were done.
        positions: ``(images, 2)``, float32, by name: the layer's, or each capsule's.
        scores: ``"silhouette"`` and ``"neighbour_accuracy"`` by the same names; without what could not be told.
    """

    epoch: int
    positions: dict[str, Tensor]
    scores: dict[str, dict[str, float]]


class FeatureTSNE(SampleCallback):
    """Draw the t-SNE embedding of learned features, coloured by class, with two numbers that tell how good they are.

    A class-balanced sample is copied from the first validation of the fit, and embedded again every n epochs and when
    the fit ends. Each embedding starts where the last one ended, without t-SNE's early exaggeration, which would press
    all points together first: the picture moves instead of jumping, and that of unchanged features stands still.

    Because positions in a t-SNE picture prove nothing, two numbers are taken in *feature* space: the silhouette of the
    classes (-1 to 1), and the share of images whose class is that of most of their nearest neighbours among all other
    images of the sample (leave-one-out; ties go to the first class). They are in the picture's title and go to every
    logger as ``tsne/silhouette`` and ``tsne/neighbour_accuracy`` (with ``layer="capsules"`` as
    ``tsne/silhouette/block0.k3``, ...), and the seconds that all this took as ``tsne/seconds``.

    The picture is ``figures/tsne.png``, and an image in W&B and TensorBoard; the table ``figures/tsne.csv`` has
    positions, class and the head's prediction, in W&B with the image. On several devices the sample is of rank 0's
    share, and rank 0 works while the others wait. Modules other than `PrimeNet` are left alone.

    Args:
        samples: Images in the sample.
        every_n_epochs: How often it is drawn, beside the end; None only when the fit ends.
        layer: ``"head"``: what the head's last linear layer sees. ``"routed"``: what the head sees, under the
            inference route. ``"capsules"``: each capsule's map, one picture each. Maps are averaged to 4x4 pixels.
        perplexity: t-SNE's number of effective neighbours; at most a third of the other images are taken.
        neighbours: Neighbours that vote.
        animation: Whether every embedding is kept, and ``figures/tsne.gif`` written when the fit ends.
        random_state: Of t-SNE.
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.

    Attributes:
        frames: The embeddings so far; without animation the latest alone.

    Raises:
        ValueError: For an unknown layer or a number that is too small; when the fit starts, if ``samples`` is smaller
            than the number of classes, or the head has no linear layer.

    Example:
        >>> from lightning.pytorch import Trainer
        >>> trainer = Trainer(callbacks=[FeatureTSNE(samples=500)], logger=False, enable_checkpointing=False)
    """

    def __init__(
        self,
        samples: int = 1000,
        every_n_epochs: int | None = 5,
        layer: FeatureLayer = "head",
        perplexity: float = 30.0,
        neighbours: int = 5,
        animation: bool = False,
        random_state: int = 0,
        folder: str | Path | None = None,
    ) -> None:
        super().__init__(every_n_epochs, folder)
        if layer not in LAYERS:
            raise ValueError(f"layer={layer!r} is unknown; use one of {tuple(LAYERS)}")
        for name, value, least in (
            ("samples", samples, FEWEST),
            ("perplexity", perplexity, 1),
            ("neighbours", neighbours, 1),
        ):
            if value < least:
                raise ValueError(f"{name}={value} is too small; give at least {least}")
        self.samples, self.layer, self.perplexity, self.neighbours = samples, layer, perplexity, neighbours
        self.animation, self.random_state = animation, random_state
        self.frames: list[Frame] = []
        self._warned = False

    def check(self, model: PrimeNet) -> int:
        """Refuse a head without a linear layer where it is needed, and too few images for the classes.

        Args:
            model: The model.

        Returns:
            ``samples``.

        Raises:
            ValueError: If ``samples`` is below the number of classes, or ``layer`` is ``"head"`` and the head has no
                linear layer.
        """
        if self.samples < model.num_classes:
            raise ValueError(
                f"samples={self.samples} is too small for {model.num_classes} classes; give at least one image a class"
            )
        if self.layer == "head":
            last_linear(model.network.head)
        return self.samples

    def look(self, trainer: Trainer, model: PrimeNet, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Embed, measure, draw and log."""
        began = time.perf_counter()
        images, labels = sample.images, sample.labels
        if len(labels) < FEWEST:
            return self._warn(f"has found {len(labels)} validation images, of which nothing can be embedded")
        with trainer.precision_plugin.forward_context():  # around no more than this: it changes torch's default dtype
            features, predictions = compute_features(model, images, labels, self.layer)
        if not all(bool(value.isfinite().all()) for value in features.values()):
            return self._warn(f"leaves out epoch {epoch}, in which features are not finite")
        before = self.frames[-1]["positions"] if self.frames else {}
        frame = Frame(
            epoch=epoch,
            positions={name: self._embed(value, before.get(name)) for name, value in features.items()},
            scores={name: separation(value, labels, self.neighbours) for name, value in features.items()},
        )
        self.frames = [*(self.frames if self.animation else []), frame]
        classes = names_of_classes(trainer, model.num_classes)
        publish(draw_embedding(frame, labels, classes, self.layer), "tsne", trainer, folder)
        publish_table("tsne", *_table(frame, labels, predictions, classes, as_pixels(images)), trainer, folder)
        metrics = _metrics(frame) | {"tsne/seconds": time.perf_counter() - began}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.fit_loop.total_batch_idx)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw a last time, and the animation."""
        super().on_fit_end(trainer, pl_module)
        if self.animation and self._sample is not None and trainer.is_global_zero:
            labels = self._sample.labels
            frames = [frame for frame in self.frames if all(len(p) == len(labels) for p in frame["positions"].values())]
            if frames and len(labels):
                classes = names_of_classes(trainer, pl_module.num_classes)
                write_animation(frames, labels, classes, self.layer, self._folder / "figures/tsne.gif")

    def _embed(self, features: Tensor, before: Tensor | None) -> Tensor:
        """Go on from the positions of the time before, if there are any of these images."""
        goes_on = before is not None and len(before) == len(features)
        return embed(features, self.perplexity, self.random_state, before if goes_on else None)

    def _warn(self, what: str) -> None:
        if not self._warned:
            self._warned = True
            rank_zero_warn(f"FeatureTSNE {what}")

    def state_dict(self) -> dict[str, Any]:
        """The embeddings, so that the next one of a resumed run starts where the last one ended."""
        return super().state_dict() | {"frames": list(self.frames)}

    def load_state_dict(self, state_dict: Mapping[str, Any]) -> None:
        """Take the embeddings of the run that is resumed."""
        super().load_state_dict(state_dict)
        self.frames = list(state_dict["frames"])


def compute_features(
    model: PrimeNet, images: Tensor, labels: Tensor, layer: FeatureLayer
) -> tuple[dict[str, Tensor], Tensor]:
    """Run images through the network, 250 at a time, in the modes that its parts are in.

    Args:
        model: In evaluation mode.
        images: ``(images, channels, height, width)``, on any device.
        labels: Class indices, ``(images,)``.
        layer: See `FeatureTSNE`.

    Returns:
        Features by name (the layer's, or each capsule's), ``(images, features)``, float32 on the CPU; and the classes
        that the head says, ``(images,)``, int64.

    Raises:
        ValueError: If the layer is ``"head"`` and the head has no linear layer.
    """
    parts: dict[str, list[Tensor]] = {}
    predictions = []
    for some, targets in zip(torch.split(images, BATCH), torch.split(labels, BATCH), strict=True):
        if layer == "capsules":
            view = view_capsules(model, some, targets)
            features, logits = {name: pooled(value) for name, value in view.maps.items()}, view.logits["head"]
        else:
            seen, logits = _head_features(model, some, layer)
            features = {layer: seen}
        for name, value in features.items():
            parts.setdefault(name, []).append(value)
        predictions.append(logits.argmax(1).cpu())
    return {name: torch.cat(values) for name, values in parts.items()}, torch.cat(predictions)


def _head_features(model: PrimeNet, images: Tensor, layer: FeatureLayer) -> tuple[Tensor, Tensor]:
    """What the head sees, or its last linear layer; and the logits."""
    network, seen = model.network, list[Tensor]()
    routed = network.features(model._images(images.to(model.device)))
    if layer == "routed":
        return pooled(routed.float().cpu()), network.head(routed)
    hook = last_linear(network.head).register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    try:
        logits = network.head(routed)
    finally:
        hook.remove()
    return seen[-1].flatten(1).float().cpu(), logits


def _first_positions(features: Tensor) -> Any:
    """The two principal components, as small as scikit-learn wants them: the first one's deviation is 1e-4."""
    # scikit-learn's own "pca" divides by zero where a dead capsule gives all images the same features
    centred = (features - features.mean(0)).double()
    left, values, _ = torch.linalg.svd(centred, full_matrices=False)
    axes = left * values
    # a component's sign is arbitrary: the largest part of each is made positive, on every machine
    axes = axes * axes.gather(0, axes.abs().argmax(0, keepdim=True)).sign()
    plane = torch.zeros(len(features), 2, dtype=torch.float64)
    plane[:, : axes.shape[1]] = axes[:, :2]
    if plane[:, 0].std() == 0:
        plane = torch.randn(len(features), 2, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return (plane / plane[:, 0].std(correction=0) * 1e-4).float().numpy()


def embed(features: Tensor, perplexity: float = 30.0, random_state: int = 0, before: Tensor | None = None) -> Tensor:
    """Lay features out in the plane by t-SNE.

    Args:
        features: ``(images, features)``, float32.
        perplexity: Effective neighbours; at most a third of the other images are taken.
        random_state: Of t-SNE.
        before: Positions to go on from, ``(images, 2)``; None begins with the two principal components.

    Returns:
        Positions, ``(images, 2)``, float32.
    """
    from sklearn.manifold import TSNE  # takes a second

    tsne = TSNE(
        perplexity=min(perplexity, (len(features) - 1) / 3),
        init=_first_positions(features) if before is None else before.numpy(),
        # positions that are good already are only to be followed, neither pressed together nor for as long
        early_exaggeration=12.0 if before is None else 1.0,
        max_iter=1000 if before is None else 500,
        random_state=random_state,
    )
    return torch.from_numpy(tsne.fit_transform(features.numpy())).float()


def separation(features: Tensor, labels: Tensor, neighbours: int = 5) -> dict[str, float]:
    """Tell how well features separate the classes.

    Args:
        features: ``(images, features)``.
        labels: Class indices, ``(images,)``.
        neighbours: How many vote.

    Returns:
        ``"silhouette"``, from -1 to 1, unless there is one class, or as many as images; ``"neighbour_accuracy"``,
        from 0 to 1: the share of images whose nearest neighbours, itself left out, vote for its class; ties go to the
        first class.

    Example:
        >>> features = torch.tensor([[0.0], [1.0], [10.0], [11.0]])
        >>> separation(features, torch.tensor([0, 0, 1, 1]), neighbours=1)["neighbour_accuracy"]
        1.0
    """
    from sklearn.metrics import silhouette_score
    from sklearn.neighbors import NearestNeighbors

    points, classes = features.numpy(), labels.numpy()
    nearest = NearestNeighbors(n_neighbors=min(neighbours, len(points) - 1)).fit(points)
    votes = torch.nn.functional.one_hot(labels[torch.from_numpy(nearest.kneighbors(return_distance=False))]).sum(1)
    scores = {"neighbour_accuracy": (votes.argmax(1) == labels).double().mean().item()}
    if 2 <= len(torch.unique(labels)) < len(labels):
        scores["silhouette"] = float(silhouette_score(points, classes))
    return scores


def _metrics(frame: Frame) -> dict[str, float]:
    """Scores by the name that loggers get."""
    return {
        f"tsne/{score}/{name}" if "." in name else f"tsne/{score}": value
        for name, scores in frame["scores"].items()
        for score, value in scores.items()
    }


def _table(
    frame: Frame, labels: Tensor, predictions: Tensor, classes: list[str], pixels: Tensor
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: positions, class, prediction, image."""
    positions = frame["positions"]
    several = len(positions) > 1
    columns = [f"{name} {axis}" if several else axis for name in positions for axis in ("x", "y")]
    rows = [
        [*(number for place in places for number in place.tolist()), classes[label], classes[said], picture]
        for label, said, picture, *places in zip(
            labels.tolist(), predictions.tolist(), pixels.numpy(), *positions.values(), strict=True
        )
    ]
    return [*columns, "class", "prediction", "image"], rows


Limits = tuple[float, float, float, float]
"""Left, right, bottom, top."""


def square_around(positions: Tensor) -> Limits:
    """Put a square around all points, with a margin.

    Args:
        positions: ``(points, 2)``.

    Returns:
        Its limits.
    """
    low, high = positions.amin(0), positions.amax(0)
    (x, y), half = ((low + high) / 2).tolist(), 0.54 * float((high - low).max()) or 1.0
    return x - half, x + half, y - half, y + half


def draw_embedding(
    frame: Frame, labels: Tensor, classes: list[str], layer: FeatureLayer, limits: Mapping[str, Limits] | None = None
) -> "Figure":
    """Draw one embedding, coloured by class.

    Args:
        frame: The embedding.
        labels: Class indices, ``(images,)``.
        classes: Names of the classes.
        layer: For the title.
        limits: Of the axes by name; None takes those of the points.

    Returns:
        A figure of 600 pixels' width; of capsules, a grid of pictures.
    """
    names = list(frame["positions"])
    single = len(names) == 1
    columns = min(len(names), 2 if len(names) in (2, 4) else 3)
    rows = -(-len(names) // columns)
    height = 5.2 if single else 1.15 + rows * (5.0 / columns + 0.6) + (0.5 if len(classes) <= MOST_MARKED else 0.7)
    figure = new_figure(6, height)
    table = figure.subplots(rows, columns, squeeze=False).flatten()
    drawn: Any = None
    for axes, name in zip(table, names, strict=False):
        positions = frame["positions"][name]
        drawn = scatter_classes(axes, positions, labels, classes, 1.0 if single else 1.0 / columns)
        left, right, bottom, top = (limits or {}).get(name) or square_around(positions)
        axes.set(xlim=(left, right), ylim=(bottom, top), box_aspect=1, xticks=[], yticks=[])
        axes.set_xlabel("t-SNE 1", fontsize=8)
        axes.set_ylabel("t-SNE 2", fontsize=8)
        if not single or "." in name:
            axes.set_title(f"{name}\n{_score_text(frame['scores'][name], single)}", fontsize=8)
            for spine in axes.spines.values():
                spine.set(color=style_of(name, names)["color"], linewidth=2)
    for axes in table[len(names) :]:
        axes.remove()
    title = f"{LAYERS[layer]}, after epoch {frame['epoch']}"
    if layer != "capsules":
        title += f"\nin feature space: {_score_text(frame['scores'][layer], single)}"
    figure.suptitle(title, fontsize=10)
    _explain_colours(figure, table[: len(names)], drawn, classes, single)
    return figure


def _score_text(scores: Mapping[str, float], wide: bool) -> str:
    silhouette = f"silhouette {scores['silhouette']:.2f}" if "silhouette" in scores else "one class, no silhouette"
    share = f"{100 * scores['neighbour_accuracy']:.1f} %"
    return f"{silhouette}, nearest neighbours {share} right" if wide else f"{silhouette}\nneighbours {share} right"


def scatter_classes(axes: "Axes", positions: Tensor, labels: Tensor, classes: list[str], scale: float) -> Any:
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
    for label, name in enumerate(classes):
        # the second ten have the first ten's colours, with other markers
        second, place = divmod(label, len(CLASS_COLOURS))
        mine = (labels == label).numpy()
        axes.scatter(
            x[mine],
            y[mine],
            s=size,
            color=CLASS_COLOURS[place],
            marker=CLASS_MARKERS[(place + 5 * second) % len(CLASS_MARKERS)],
            edgecolors="black",
            linewidths=0.3,
            label=name,
        )
    return None


def _explain_colours(figure: "Figure", all_axes: Any, drawn: Any, classes: list[str], single: bool) -> None:
    if len(classes) > MOST_MARKED:
        figure.colorbar(drawn, ax=list(all_axes), label="class index", shrink=0.8)
        return
    handles, names = all_axes[0].get_legend_handles_labels()
    place: Any = "outside right center" if single else "outside lower center"
    columns = 1 if single else 5
    scale = 1.5 if single else 2.5
    figure.legend(
        handles, names, title="class", loc=place, ncols=columns, fontsize=8, title_fontsize=8, markerscale=scale
    )


def write_animation(frames: list[Frame], labels: Tensor, classes: list[str], layer: FeatureLayer, path: Path) -> None:
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
    limits = {name: square_around(torch.cat([frame["positions"][name] for frame in frames])) for name in names}
    pictures = []
    for frame in frames:
        buffer = io.BytesIO()
        draw_embedding(frame, labels, classes, layer, limits).savefig(buffer, format="png")
        pictures.append(Image.open(buffer).convert("RGB").quantize(128))
    path.parent.mkdir(parents=True, exist_ok=True)
    first, *others = pictures
    first.save(path, save_all=True, append_images=others, duration=[500] * len(others) + [2000], loop=0)
