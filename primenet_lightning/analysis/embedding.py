"""Features laid out in the plane by t-SNE, and two numbers that tell how well they part the classes."""

from typing import Any, TypedDict

import torch
from torch import Tensor
from torch.nn.functional import one_hot

FEWEST = 10
"""Images below which neighbourhoods mean nothing."""


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


def embed(features: Tensor, perplexity: float = 30.0, random_state: int = 0, before: Tensor | None = None) -> Tensor:
    """Lay features out in the plane by t-SNE.

    Args:
        features: ``(images, features)``, float32.
        perplexity: Effective neighbours; at most a third of the other images are taken.
        random_state: Of t-SNE.
        before: Positions to go on from, ``(images, 2)``; None begins with the two principal components.

    Returns:
        Positions, ``(images, 2)``, float32.

    Example:
        >>> embed(torch.randn(12, 5)).shape
        torch.Size([12, 2])
    """
    from sklearn.manifold import TSNE  # takes a second

    options: dict[str, Any]
    if before is None:
        options = dict(init=_first_positions(features), early_exaggeration=12.0, max_iter=1000)
    else:
        # positions that are good already are only to be followed, neither pressed together nor for as long
        options = dict(init=before.numpy(), early_exaggeration=1.0, max_iter=500)
    largest = (len(features) - 1) / 3
    tsne = TSNE(perplexity=min(perplexity, largest), random_state=random_state, **options)
    return torch.from_numpy(tsne.fit_transform(features.numpy())).float()


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
    search = NearestNeighbors(n_neighbors=min(neighbours, len(points) - 1)).fit(points)
    nearest = torch.from_numpy(search.kneighbors(return_distance=False))
    votes = one_hot(labels[nearest]).sum(1)
    scores = {"neighbour_accuracy": (votes.argmax(1) == labels).double().mean().item()}
    if 2 <= len(torch.unique(labels)) < len(labels):
        scores["silhouette"] = float(silhouette_score(points, classes))
    return scores
