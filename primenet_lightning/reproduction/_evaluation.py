"""What a trained PrimeNet of one block says of images, under every way of routing at once."""

from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from lightning.pytorch import LightningModule
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import cross_entropy

from primenet_lightning.analysis.embedding import embed, separation
from primenet_lightning.analysis.features import feature_extractor
from primenet_lightning.analysis.sample import BalancedSample
from primenet_lightning.analysis.views import as_pixels, view_capsules
from primenet_lightning.baselines import majority_vote
from primenet_lightning.datamodules import ImageDataModule, ImageTensors
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.routes import least_entropy

SAMPLE = 1000
"""Images of a t-SNE picture, at most; from the validation split, which both networks are judged on."""

ROWS = 3
"""Images of figure 4."""

CHANNELS = 4
"""Channels of each capsule in figure 4."""

BATCH = 200
"""Images among which ``"oracle per batch"`` looks for the capsule of least loss: the batch of training."""


class Scores(NamedTuple):
    """Everyone's logits of a split, ``(capsules, images, classes)``: the head's are with each capsule routed."""

    capsules: Tensor
    heads: Tensor
    labels: Tensor


@torch.inference_mode()
def all_scores(model: PrimeNet, data: ImageDataModule, images: ImageTensors) -> Scores:
    """Run every capsule of a network of one block, and the head on the map of each; scores come on the CPU."""
    network = model.eval().network
    (names,) = network.capsule_names
    capsules: list[Tensor] = []
    heads: list[Tensor] = []
    labels: list[Tensor] = []
    for rows in torch.split(torch.arange(len(images)), BATCH):
        pixels, target = images[rows]
        x, y = model.images_of(data.normalize(pixels.to(model.device))), target.to(model.device)
        routed = [network.evaluate(x, y, route=(k,)).logits for k in range(len(names))]
        capsules.append(torch.stack([routed[0][name] for name in names]).float().cpu())
        heads.append(torch.stack([logits["head"] for logits in routed]).float().cpu())
        labels.append(target)
    return Scores(torch.cat(capsules, 1), torch.cat(heads, 1), torch.cat(labels))


def routing_errors(scores: Scores, majority: int, names: list[str], batch: int = BATCH) -> dict[str, float]:
    """Test errors in % under every way of routing at inference; only those called oracle see the labels.

    ``"majority"``; ``"fixed k3"``, ...; ``"random"`` (one capsule an image, the mean over all draws); ``"min_entropy"``
    (each image takes its surest capsule); ``"vote"`` of the local classifiers, without a head; ``"mean of heads"``
    (probabilities averaged over all routes); ``"oracle per batch"`` and ``"oracle per sample"`` (equation 4 with the
    labels under test), and both with ``", own verdict"``: not the head answers, which knows the map of one capsule
    best, but the local classifier of the capsule chosen.
    """
    capsules, heads, labels = scores
    everyone = torch.arange(len(labels))
    right, own_right = heads.argmax(2) == labels, capsules.argmax(2) == labels
    losses = torch.stack([cross_entropy(logits, labels, reduction="none") for logits in capsules])
    by_sample = losses.argmin(0)
    by_batch = torch.cat([part.mean(1).argmin().expand(part.shape[1]) for part in torch.split(losses, batch, 1)])
    correct = {"majority": right[majority]}
    for name, answers in zip(names, right, strict=True):
        correct[f"fixed {name}"] = answers
    correct |= {
        "random": right,
        "min_entropy": right[least_entropy(capsules), everyone],
        "vote": majority_vote(list(capsules)) == labels,
        "mean of heads": heads.softmax(2).mean(0).argmax(1) == labels,
        "oracle per batch": right[by_batch, everyone],
        "oracle per sample": right[by_sample, everyone],
        "oracle per batch, own verdict": own_right[by_batch, everyone],
        "oracle per sample, own verdict": own_right[by_sample, everyone],
    }
    return {name: round(100 * (1 - float(answers.double().mean())), 6) for name, answers in correct.items()}


def sample_of(data: ImageDataModule, size: int = SAMPLE) -> tuple[Tensor, Tensor]:
    """Take a class-balanced sample of the validation split, normalised, the same for every network of a seed."""
    split = data.validation_dataset
    sample = BalancedSample(min(size, len(split)), data.num_classes)
    pixels, labels = split[torch.arange(len(split))]
    sample.add(data.normalize(pixels), labels)
    return sample.images, sample.labels


@torch.inference_mode()
def cluster(model: LightningModule, data: ImageDataModule, picture: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Tell how clearly the features before the last layer part the classes (figure 6)."""
    images, labels = sample_of(data)
    extract = feature_extractor(model, "head").eval()
    parts = [extract(some.to(model.device)).float().cpu() for some in torch.split(images, BATCH)]
    features = torch.cat(parts)
    arrays = {"embedding": embed(features).numpy(), "embedding_labels": labels.numpy()} if picture else {}
    return separation(features, labels), arrays


@torch.inference_mode()
def figure_maps(model: PrimeNet, data: ImageDataModule, rows: int = ROWS) -> Mapping[str, NDArray[Any]]:
    """Gather what figure 4 shows: one image of each of the first classes, and what every capsule makes of it."""
    images, labels = sample_of(data)
    chosen = torch.stack([(labels == label).nonzero()[0, 0] for label in range(min(rows, data.num_classes))])
    names = model.network.capsule_names[0]
    view = view_capsules(model.eval(), images[chosen], labels[chosen])
    maps, losses, verdicts = [], [], []
    for name in names:
        logits, channels = view.logits[name], view.maps[name]
        strongest = channels.abs().mean((2, 3)).topk(min(CHANNELS, channels.shape[1]), dim=1).indices
        maps.append(channels[torch.arange(len(chosen))[:, None], strongest])
        losses.append(cross_entropy(logits, labels[chosen], reduction="none"))
        verdicts.append(logits.argmax(1))
    by_capsule = torch.stack(losses, 1)
    return {
        "pixels": as_pixels(images)[chosen].numpy(),
        "labels": labels[chosen].numpy(),
        "maps": torch.stack(maps, 1).numpy(),
        "losses": by_capsule.numpy(),
        "verdicts": torch.stack(verdicts, 1).numpy(),
        "head_verdicts": view.logits["head"].argmax(1).numpy(),
        "routed": view.route[0].numpy(),
        "least_loss": by_capsule.argmin(1).numpy(),
        "capsule_names": np.array([name.partition(".")[2] for name in names]),
        "class_names": np.array(data.class_names),
    }
