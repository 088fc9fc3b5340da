"""Stratified splits: every class in proportion, the same split for the same seed."""

import numpy as np
import torch
from torch import Tensor


def stratified_split(labels: Tensor, count: int, seed: int) -> tuple[Tensor, Tensor]:
    """Hold out ``count`` images so that every class keeps its share of them.

    Each class gets its exact quota rounded down; the places left over go to the largest remainders, so a
    class is never more than one image away from its share.

    Args:
        labels: Class indices, int64 (images,).
        count: How many images to hold out, from 0 to the number of images.
        seed: Which images of a class are held out.

    Returns:
        The indices that stay, int64 (images - count,), and the indices held out, int64 (count,), both ascending.

    Raises:
        ValueError: If there are fewer than ``count`` images.

    Example:
        >>> labels = torch.tensor([0, 0, 0, 0, 1, 1])
        >>> rest, held_out = stratified_split(labels, count=3, seed=0)
        >>> labels[rest].tolist(), labels[held_out].tolist()
        ([0, 0, 1], [0, 0, 1])
    """
    if not 0 <= count <= len(labels):
        raise ValueError(f"count={count} cannot be held out of {len(labels)} images; give 0 to {len(labels)}.")
    # how many of each class: in whole numbers, so that no rounding decides a tie
    classes, sizes = np.unique(labels, return_counts=True)
    shares, remainders = np.divmod(sizes * count, len(labels))
    largest_first = np.argsort(-remainders, kind="stable")
    shares[largest_first[: count - shares.sum()]] += 1

    # which of them; numpy's legacy generator is frozen: the same seed gives the same split under every version
    generator = np.random.RandomState(seed)
    held_out = torch.zeros(len(labels), dtype=torch.bool)
    for label, share in zip(classes, shares, strict=True):
        members = (labels == label).nonzero().flatten().numpy()
        held_out[generator.permutation(members)[:share]] = True
    return (~held_out).nonzero().flatten(), held_out.nonzero().flatten()


def limited(training: Tensor, labels: Tensor, limit: int, seed: int, name: str) -> Tensor:
    """Take a stratified part of the training split.

    Args:
        training: Positions of its images, int64 (images,).
        labels: Of all images, int64 (images,).
        limit: How many to take.
        seed: Which.
        name: The data set.

    Returns:
        Positions of those taken, int64 (images,), ascending.

    Raises:
        ValueError: If there are fewer.

    Example:
        >>> limited(torch.tensor([0, 1, 3]), torch.tensor([0, 1, 1, 1]), 3, seed=0, name="four")
        tensor([0, 1, 3])
    """
    if limit > len(training):
        raise ValueError(
            f"limit_train={limit} is more than the {len(training)} training images of {name}; give at most "
            f"{len(training)}."
        )
    _, places = stratified_split(labels[training], limit, seed)
    return training[places]


def last_held_out(total: int, count: int) -> tuple[Tensor, Tensor]:
    """Hold out the last images.

    Args:
        total: How many images there are.
        count: How many to hold out.

    Returns:
        Positions of the others, int64 (total - count,), and of those held out, int64 (count,).

    Example:
        >>> last_held_out(5, 2)
        (tensor([0, 1, 2]), tensor([3, 4]))
    """
    return torch.arange(total - count), torch.arange(total - count, total)
