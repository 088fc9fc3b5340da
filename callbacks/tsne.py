"""t-SNE of what the network has learned to see in a fixed sample of the validation images."""

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Trainer
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor

from primenet_lightning.analysis.embedding import FEWEST, Frame, embed, separation
from primenet_lightning.analysis.features import FeatureLayer, compute_features, last_linear, uncut
from primenet_lightning.analysis.sample import BalancedSample
from primenet_lightning.analysis.views import as_pixels
from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.callbacks.publishing import class_names, normalization, publish, publish_table
from primenet_lightning.callbacks.sample import SampleCallback
from primenet_lightning.figures.embedding import LAYERS, draw_embedding, write_animation
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.models.backbones import last_layer
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.names import LearnerName
from primenet_lightning.training.learner import LocalLearner


class FeatureTSNE(SampleCallback, metaclass=CheckedArguments):
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
    share, and rank 0 works while the others wait. A `LocalLearner` that is no `PrimeNet` has only the layer ``"head"``;
    other modules are left alone.

    Args:
        samples: Images in the sample.
        every_n_epochs: How often it is drawn, beside the end; None only when the fit ends.
        layer: ``"head"``: what the head's last linear layer sees, or of a model that is no `PrimeNet` the layer that
            gives its logits. ``"routed"``: what the head sees, under the
            inference route. ``"capsules"``: each capsule's map, one picture each. Maps are averaged to 4x4 pixels.
        perplexity: t-SNE's number of effective neighbours; at most a third of the other images are taken.
        neighbours: Neighbours that vote.
        animation: Whether every embedding is kept, and ``figures/tsne.gif`` written when the fit ends.
        random_state: Of t-SNE.
        folder: Where ``figures`` goes; None takes the folder of the first logger, or without loggers the Trainer's
            ``default_root_dir``.
        figure_format: Kind of the files: ``"png"``, ``"svg"`` or ``"pdf"``, which comes with a PNG beside it.

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
        figure_format: FigureFormat = "png",
    ) -> None:
        super().__init__(every_n_epochs, folder, figure_format)
        if layer not in LAYERS:
            raise ValueError(f"layer={layer!r} is unknown; use one of {tuple(LAYERS)}")
        at_least(FEWEST, "images", samples=samples)
        at_least(1, perplexity=perplexity, neighbours=neighbours)
        self.samples = samples
        self.layer = layer
        self.perplexity = perplexity
        self.neighbours = neighbours
        self.animation = animation
        self.random_state = random_state
        self.frames: list[Frame] = []
        self._warned = False

    @property
    def looks_at(self) -> tuple[type[LocalLearner], ...]:
        """`PrimeNet`; or for the layer ``"head"`` any `LocalLearner`."""
        if self.layer == "head":
            return (PrimeNet, LocalLearner)
        return (PrimeNet,)

    def check(self, model: LocalLearner) -> int:
        """Refuse a head without a linear layer where it is needed, and too few images for the classes.

        Args:
            model: The model.

        Returns:
            ``samples``.

        Raises:
            ValueError: If ``samples`` is below the number of classes, or ``layer`` is ``"head"`` and the head has no
                linear layer, or the model no layer that gives logits.
        """
        if self.samples < model.num_classes:
            raise ValueError(
                f"FeatureTSNE's samples={self.samples} is too small for {model.num_classes} classes; give samples="
                f"{model.num_classes} or more, at least one image a class"
            )
        if isinstance(model, PrimeNet):
            if self.layer == "head":
                last_linear(model.network.head)
        elif not last_layer(uncut(model.network)):
            raise ValueError(
                f"FeatureTSNE needs a dense layer or a convolution, but {type(model).__name__} has none; leave it out"
            )
        return self.samples

    def look(self, trainer: Trainer, model: LocalLearner, sample: BalancedSample, epoch: int, folder: Path) -> None:
        """Embed, measure, draw and log."""
        began = time.perf_counter()
        images, labels = sample.images, sample.labels
        if len(labels) < FEWEST:
            return self._warn(f"has found {len(labels)} validation images, of which nothing can be embedded")
        with trainer.precision_plugin.forward_context():  # around no more than this: it changes torch's default dtype
            features, predictions = compute_features(model, images, labels, self.layer)
        if not all(bool(value.isfinite().all()) for value in features.values()):
            return self._warn(f"leaves out epoch {epoch}, in which features are not finite")
        frame = self._next_frame(features, labels, epoch)

        # published, with the pictures that belong to the positions
        classes = class_names(trainer, model, model.num_classes)
        publish(draw_embedding(frame, labels, classes, self.layer), "tsne", trainer, folder, self.figure_format)
        pixels = as_pixels(images, *normalization(trainer, model))
        columns, rows = _table(frame, labels, predictions, classes, pixels)
        publish_table("tsne", columns, rows, trainer, folder)
        metrics = _metrics(frame) | {"tsne/seconds": time.perf_counter() - began}
        for logger in trainer.loggers:
            logger.log_metrics(metrics, step=trainer.fit_loop.total_batch_idx)

    def _next_frame(self, features: Mapping[str, Tensor], labels: Tensor, epoch: int) -> Frame:
        """Embed and measure, and remember it."""
        frame = Frame(epoch=epoch, positions={}, scores={})
        positions_before: Mapping[str, Tensor] = {}
        if self.frames:
            positions_before = self.frames[-1]["positions"]
        for name, value in features.items():
            frame["positions"][name] = self._embed(value, positions_before.get(name))
            frame["scores"][name] = separation(value, labels, self.neighbours)
        if not self.animation:
            self.frames = []
        self.frames = [*self.frames, frame]
        return frame

    def _embed(self, features: Tensor, before: Tensor | None) -> Tensor:
        """Go on from the positions of the time before, if there are any of these images."""
        if before is not None and len(before) != len(features):
            before = None
        return embed(features, self.perplexity, self.random_state, before)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Draw a last time, and the animation."""
        super().on_fit_end(trainer, pl_module)
        if not self.animation or self._sample is None or not trainer.is_global_zero or not len(self._sample):
            return
        labels = self._sample.labels
        frames = [frame for frame in self.frames if _is_of(frame, len(labels))]
        if frames:
            classes = class_names(trainer, pl_module, pl_module.num_classes)
            write_animation(frames, labels, classes, self.layer, self._folder / "figures/tsne.gif")

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


def _is_of(frame: Frame, images: int) -> bool:
    """Whether a frame has so many images."""
    return all(len(positions) == images for positions in frame["positions"].values())


def _metrics(frame: Frame) -> dict[str, float]:
    """Scores by the name that loggers get."""
    metrics: dict[str, float] = {}
    for name, scores in frame["scores"].items():
        suffix = f"/{name}" if LearnerName.parse(name).learner else ""
        for score, value in scores.items():
            metrics[f"tsne/{score}{suffix}"] = value
    return metrics


def _table(
    frame: Frame, labels: Tensor, predictions: Tensor, classes: Sequence[str], pixels: Tensor
) -> tuple[list[str], list[list[Any]]]:
    """Columns and rows: positions, class, prediction, image."""
    columns: list[str] = []
    if len(frame["positions"]) == 1:
        columns = ["x", "y"]
    else:
        for name in frame["positions"]:
            columns += [f"{name} x", f"{name} y"]
    places = torch.cat(list(frame["positions"].values()), dim=1).tolist()
    rows: list[list[Any]] = []
    for place, label, prediction, picture in zip(
        places, labels.tolist(), predictions.tolist(), pixels.numpy(), strict=True
    ):
        rows.append([*place, classes[label], classes[prediction], picture])
    return [*columns, "class", "prediction", "image"], rows
