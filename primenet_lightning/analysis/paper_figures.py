"""What figures 4 and 6 of the paper show of a trained network; `primenet_lightning.figures.paper_figures` draws it."""

from collections.abc import Mapping
from typing import Any

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
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.models.prime import PrimeNet

SAMPLE = 1000
"""Images of a t-SNE picture, at most; from the validation split, which both networks are judged on."""

ROWS = 3
"""Images of figure 4."""

CHANNELS = 4
"""Channels of each capsule in figure 4."""

BATCH = 200


def sample_of(data: ImageDataModule, size: int = SAMPLE) -> tuple[Tensor, Tensor]:
    """Take a class-balanced sample of the validation split, the same for every network of a seed.

    Args:
        data: Set up.
        size: Images, at most.

    Returns:
        Images, normalised, ``(images, channels, height, width)``, and labels, ``(images,)``.
    """
    split = data.validation_dataset
    sample = BalancedSample(min(size, len(split)), data.num_classes)
    pixels, labels = split[torch.arange(len(split))]
    sample.add(data.normalize(pixels), labels)
    return sample.images, sample.labels


@torch.inference_mode()
def cluster(model: LightningModule, data: ImageDataModule, picture: bool) -> tuple[dict[str, float], dict[str, Any]]:
    """Tell how clearly the features before the last layer part the classes (figure 6).

    Args:
        model: Any network that ends in a linear layer.
        data: Set up.
        picture: Whether t-SNE is run, too.

    Returns:
        Silhouette and neighbour accuracy, both in feature space; and the arrays of the picture.
    """
    images, labels = sample_of(data)
    extract = feature_extractor(model, "head").eval()
    batches: list[Tensor] = []
    for batch in torch.split(images, BATCH):
        batches.append(extract(batch.to(model.device)).float().cpu())
    features = torch.cat(batches)
    arrays: dict[str, Any] = {}
    if picture:
        arrays = {"embedding": embed(features).numpy(), "embedding_labels": labels.numpy()}
    return separation(features, labels), arrays


@torch.inference_mode()
def figure_maps(model: PrimeNet, data: ImageDataModule, rows: int = ROWS) -> Mapping[str, NDArray[Any]]:
    """Gather what figure 4 shows: one image of each of the first classes, and what every capsule makes of it.

    Args:
        model: Of one block.
        data: Set up.
        rows: Images.

    Returns:
        Arrays by name.
    """
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
