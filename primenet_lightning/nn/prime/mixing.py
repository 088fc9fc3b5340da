"""Routers that make their own of all maps: they keep them all, or learn which image takes which."""

from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import at_least
from primenet_lightning.nn.layers import glorot_
from primenet_lightning.nn.losses import cross_entropy
from primenet_lightning.nn.numbers import WHOLE, Share
from primenet_lightning.nn.prime.router import Router


class _AllMaps(Router):
    """Every capsule's map goes on, so that there is nothing to choose and no loss is needed."""

    chooses = False
    needs_losses = False

    def taken(self, x: Tensor, logits: Sequence[Tensor], index: int) -> Tensor:
        """No image takes one capsule's map alone: -1."""
        return torch.full((len(x),), -1, device=x.device)

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute all maps."""
        return self.select(x, [feature(x) for feature in features], index)


class Concatenate(_AllMaps):
    """All maps, one after the other: every scale goes on, and the next block has the choice by its 1x1 convolutions."""

    name = "concatenate"

    def out_channels(self, channels: int, capsules: int) -> int:
        """All channels of all capsules."""
        return channels * capsules

    def select(self, x: Tensor, maps: Sequence[Tensor], index: int) -> Tensor:
        """Put the maps one after the other."""
        return torch.cat(list(maps), dim=1)


class Mean(_AllMaps):
    """The mean of all maps."""

    name = "mean"

    def select(self, x: Tensor, maps: Sequence[Tensor], index: int) -> Tensor:
        """Average the maps."""
        return sum(maps[1:], maps[0]) / len(maps)


class Gate(Router):
    r"""A small classifier of the block's input that predicts which capsule will have the least loss.

    .. math:: g = W_2 \, \mathrm{LeakyReLU}(W_1 \, \mathrm{pool}(x)), \qquad
              L_{gate} = CE(\arg\min_k L_k, g)

    It learns from the local losses by a loss and an optimizer of its own, called ``gate``, and routes in training and
    inference alike, so that what follows sees the same mixture of maps in both. The labels reach it only through the
    losses, in training.

    Args:
        per: ``"sample"``: each image takes its own capsule, predicted from its own losses. ``"batch"``: all images of a
            batch take the one of the largest mean score, predicted from the losses of the batch; what an image gets
            then depends on the others in its batch.
        hidden: Width of the hidden layer.

    Raises:
        ValueError: If ``per`` is neither of the two, or ``hidden`` is not positive.

    Example:
        >>> gate = Gate(per="sample")
        >>> gate.build((3, 32, 32), capsules=3)
        >>> gate(torch.zeros(2, 3, 32, 32)).shape
        torch.Size([2, 3])
    """

    name = "gate"
    chooses = False
    learns = True

    def __init__(self, per: Literal["sample", "batch"] = "sample", hidden: int = 32) -> None:
        super().__init__()
        if per not in ("sample", "batch"):
            raise ValueError(f"per={per!r} is unknown; use 'sample' or 'batch'")
        at_least(1, hidden=hidden)
        self.per = per
        self.hidden = hidden
        self.classifier = nn.Sequential()

    @property
    def routes_batches(self) -> bool:
        """Whether it decides by the batch."""
        return self.per == "batch"

    def build(self, in_shape: tuple[int, int, int], capsules: int, index: int | None = None) -> None:
        """Make the classifier for inputs of this shape."""
        super().build(in_shape, capsules, index)
        grid = min(4, *in_shape[1:])
        self.classifier = nn.Sequential(
            nn.AdaptiveAvgPool2d(grid),
            nn.Flatten(),
            nn.Linear(in_shape[0] * grid * grid, self.hidden),
            nn.LeakyReLU(),
            nn.Linear(self.hidden, capsules),
        )
        glorot_(self.classifier)

    def forward(self, x: Tensor) -> Tensor:
        """Score the capsules.

        Args:
            x: The block's input, ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, capsules)``; the largest is the choice.
        """
        scores: Tensor = self.classifier(x)
        return scores

    def loss(self, x: Tensor, losses: Tensor, share: Share = WHOLE) -> Tensor:
        """Cross-entropy against the capsule of least loss, of the image or of the (global) batch."""
        scores = self(x)
        if self.per == "sample":
            return cross_entropy(scores, losses.argmin(0))
        best_of_batch = share.mean(losses.mean(1)).argmin()
        return cross_entropy(scores, best_of_batch.expand(len(scores)))

    @torch.no_grad()
    def decide(self, x: Tensor, index: int, share: Share = WHOLE) -> int:
        """By the batch, the capsule of the largest mean score of the (global) batch; by the image, nothing."""
        if self.per == "sample":
            return index
        scores = self(x).float().mean(0)
        return int(share.mean(scores).argmax())

    @torch.no_grad()
    def select(self, x: Tensor, maps: Sequence[Tensor], index: int) -> Tensor:
        """Take each image's map from the capsule of its largest score; or all from the one that was decided."""
        if self.per == "batch":
            return maps[index]
        choice = self(x).argmax(1)
        # of shape[0], not of len, which would tie an exported graph to one size of batch
        return torch.stack(list(maps))[choice, torch.arange(choice.shape[0], device=choice.device)]

    @torch.no_grad()
    def taken(self, x: Tensor, logits: Sequence[Tensor], index: int) -> Tensor:
        """By the image, the capsule of its largest score; by the batch, the one that was decided."""
        if self.per == "batch":
            return super().taken(x, logits, index)
        choice: Tensor = self(x).argmax(1)
        return choice

    def infer(self, x: Tensor, features: Sequence[nn.Module], index: int) -> Tensor:
        """Compute of each capsule the images that take it."""
        if self.per == "batch":
            return super().infer(x, features, self.decide(x, index))
        if torch.compiler.is_compiling() or not len(x):  # an exported graph has no rows to count
            return self.select(x, [feature(x) for feature in features], index)

        choice = self(x).argmax(1)
        rows: list[Tensor] = []
        maps: list[Tensor] = []
        for capsule, feature in enumerate(features):
            own = (choice == capsule).nonzero()[:, 0]
            if len(own):
                rows.append(own)
                maps.append(feature(x[own]))
        in_order_of_images = torch.cat(rows).argsort()
        return torch.cat(maps)[in_order_of_images]
