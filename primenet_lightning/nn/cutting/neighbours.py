"""Objectives that look at the part that follows: an averaged copy of its first block, or the whole of it."""

import copy

import torch
from torch import Tensor, nn

from primenet_lightning.nn.cutting.objectives import Judgement, Objective
from primenet_lightning.nn.cutting.parts import Part
from primenet_lightning.nn.losses import CrossEntropy


class Averaged(Objective):
    r"""MAN: the classifier sees the features through two copies of the next part's first block B (Su et al. 2024).

    .. math:: y = s\, B_{learned}(f) + (2 - s)\, B_{averaged}(f)

    One copy learns with this part. The parameters of the other follow those of B,
    :math:`\gamma \leftarrow m \gamma + (1 - m) \theta`; its statistics of batch norm are its own. The scale s learns,
    from 1 on. No gradient reaches B: the part hears of the next one, but the next one does not learn from it.

    The average is taken when a training batch begins, of the weights that the step before it has left.

    Args:
        block: B.
        objective: Judges y.
        momentum: m.

    Attributes:
        learned: The copy that learns.
        averaged: The copy that follows B.
        scale: s, a scalar.
    """

    needs_next_part = True

    def __init__(self, block: Part, objective: Objective, momentum: float = 0.995) -> None:
        super().__init__()
        self.objective = objective
        self.momentum = momentum
        self.learned = block.copied(copy.deepcopy).requires_grad_(True)
        self.averaged = block.copied(copy.deepcopy).requires_grad_(False)
        self.scale = nn.Parameter(torch.ones(()))
        self._blocks = [block]  # in a list: it is no module of this one

    @property
    def block(self) -> Part:
        """The block that is copied."""
        return self._blocks[0]

    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Judge the features seen through both copies; see `Objective.forward`."""
        if self.training:
            self.follow()
        seen = self.scale * self.learned(features) + (2 - self.scale) * self.averaged(features)
        judgement: Judgement = self.objective(seen, target, images)
        return judgement

    @torch.no_grad()
    def follow(self) -> None:
        """Let the averaged copy follow the block."""
        followers = dict(self.averaged.named_parameters())
        for name, parameter in self.block.named_parameters():
            followers[name].lerp_(parameter, 1 - self.momentum)


class Overlapping(Objective):
    r"""HPFF's cascade: the part learns from its own loss, and from one behind the part that follows (Su et al. 2024).

    .. math:: L = 0.001\, CE(y, g(f)) + 0.999\, CE(y, g'(P(f)))

    The gradient of the second loss trains the next part P too. So neighbours overlap: this is **not** strictly local,
    activations of two parts are alive at a time, and each part but the first is run, and differentiated, twice.

    Args:
        classifier: g, from the part's features to logits.
        next_part: P.
        next_classifier: g', from what P hands on to logits.
        cascade: The weight of the second loss; the first has the rest.
        label_smoothing: Of both losses.
    """

    needs_next_part = True

    def __init__(
        self,
        classifier: nn.Module,
        next_part: Part,
        next_classifier: nn.Module,
        cascade: float = 0.999,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.next_classifier = next_classifier
        self.cascade = cascade
        self.loss = CrossEntropy(label_smoothing)
        self._next_parts = [next_part]  # in a list: it is no module of this one

    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Judge the features, and what the next part makes of them; see `Objective.forward`."""
        logits = self.classifier(features)
        own = self.loss(features, logits, target)
        onward = self._next_parts[0](features)
        cascaded = self.loss(onward, self.next_classifier(onward), target)
        return Judgement((1 - self.cascade) * own + self.cascade * cascaded, logits)
