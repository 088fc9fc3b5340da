"""Local losses: what a capsule learns from."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least, with_options
from primenet_lightning.nn.layers import at_least_float32, glorot_
from primenet_lightning.nn.similarity import similarity_loss

LogitsLoss = Callable[[Tensor, Tensor], Tensor]
"""Maps logits ``(batch, classes)`` and targets ``(batch,)`` to a scalar."""

LocalLossKind = Literal["cross_entropy", "label_smoothing", "similarity", "predsim"]
"""Names of the local losses, see `local_loss`."""


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    r"""Mean cross-entropy of a batch, equation 1 of the paper: :math:`L_{local} = CE(y, f(x; \theta))`.

    It is computed in float32 whatever the precision of the network, because the loss is also what routing
    compares: in bfloat16 two capsules less than 0.4 % apart would tie.

    Args:
        logits: Unnormalised scores, ``(batch, classes)``, any floating dtype.
        target: Class indices, ``(batch,)``, int64.

    Returns:
        A scalar, in nats; float64 if the logits are float64, else float32.

    Example:
        >>> import torch
        >>> cross_entropy(torch.zeros(2, 4), torch.tensor([0, 3]))  # ln 4
        tensor(1.3863)
    """
    return functional.cross_entropy(at_least_float32(logits), target)


def cross_entropy_of_each(logits: Sequence[Tensor], target: Tensor) -> Tensor:
    """Compute the cross-entropy of each learner on each image.

    Args:
        logits: Of each learner, ``(batch, classes)``.
        target: Class indices, ``(batch,)``, int64.

    Returns:
        ``(learners, batch)``, in nats.

    Example:
        >>> import torch
        >>> cross_entropy_of_each([torch.zeros(2, 4), torch.zeros(2, 4)], torch.tensor([0, 3])).shape
        torch.Size([2, 2])
    """
    stacked = at_least_float32(torch.stack(list(logits)))
    losses = functional.cross_entropy(stacked.flatten(0, 1), target.repeat(len(stacked)), reduction="none")
    return losses.view(stacked.shape[:2])


def smoothed_cross_entropy(label_smoothing: float) -> LogitsLoss:
    """Make the cross-entropy against softened targets, see `CrossEntropy`.

    Args:
        label_smoothing: The share of the targets that is spread over all classes.

    Returns:
        From logits ``(batch, classes)`` and targets ``(batch,)`` to a scalar; `cross_entropy` where nothing is spread.

    Raises:
        ValueError: If ``label_smoothing`` is below 0, or 1 or more.

    Example:
        >>> import torch
        >>> loss = smoothed_cross_entropy(0.2)
        >>> loss(torch.tensor([[100.0, 0.0]]), torch.tensor([0]))  # 0.1 of the target lies on the other class
        tensor(10.)
    """
    refuse_smoothing(label_smoothing)
    if label_smoothing == 0:
        return cross_entropy
    return partial(_smoothed_cross_entropy, label_smoothing=label_smoothing)


def _smoothed_cross_entropy(logits: Tensor, target: Tensor, label_smoothing: float) -> Tensor:
    return functional.cross_entropy(at_least_float32(logits), target, label_smoothing=label_smoothing)


def refuse_smoothing(label_smoothing: float) -> None:
    """Refuse a share of the targets that cannot be spread.

    Args:
        label_smoothing: The share.

    Raises:
        ValueError: If it is below 0, or 1 or more.
    """
    if not 0 <= label_smoothing < 1:
        raise ValueError(
            f"label_smoothing={label_smoothing} must be at least 0 and below 1: it is the share of the target "
            "that is spread over all classes; 0.1 is usual"
        )


def summed_cross_entropy(answers: Sequence[Tensor], target: Tensor) -> Tensor:
    r"""Cross-entropies of several classifiers, such as the exits of a network: :math:`\sum_i CE(y, f_i(x))`.

    Args:
        answers: Logits, ``(batch, classes)``, one or more.
        target: Class indices, ``(batch,)``, int64.

    Returns:
        A scalar, in nats: the sum of the means over the batch.

    Example:
        >>> import torch
        >>> summed_cross_entropy([torch.zeros(2, 4), torch.zeros(2, 4)], torch.tensor([0, 3]))  # 2 ln 4
        tensor(2.7726)
    """
    return torch.stack([cross_entropy(logits, target) for logits in answers]).sum()


class LocalLoss(nn.Module, ABC, metaclass=CheckedArguments):
    """What a capsule learns from: its feature map, its classifier's logits and the targets give a scalar.

    A loss may have parameters of its own, which learn with the capsule and are not needed after training. Like
    `cross_entropy` it is computed in float32 whatever the precision of the network. On several devices it is that of
    each one's own share of the batch; losses that compare images compare those within the share.

    Attributes:
        detaches_features: Whether the classifier is to be given the detached feature map, so that the loss of its
            logits does not reach the features.

    Example:
        >>> import torch
        >>> class Confidence(LocalLoss):  # one's own
        ...     def forward(self, feature_map, logits, target):
        ...         return 1 - logits.float().softmax(1).gather(1, target[:, None]).mean()
        >>> Confidence()(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4), torch.tensor([0, 3]))
        tensor(0.7500)
    """

    detaches_features: ClassVar[bool] = False

    @abstractmethod
    def forward(self, feature_map: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the mean loss of a batch.

        Args:
            feature_map: The capsule's map, ``(batch, channels, height, width)``, any floating dtype.
            logits: The local classifier's unnormalised scores, ``(batch, classes)``, any floating dtype.
            target: Class indices, ``(batch,)``, int64.

        Returns:
            A scalar; float64 if what it is computed from is float64, else float32.
        """


class CrossEntropy(LocalLoss):
    r"""Cross-entropy, equation 1 of the paper; with label smoothing :math:`\epsilon` that against softened targets.

    .. math:: L = (1 - \epsilon)\, CE(y, f) + \frac{\epsilon}{C} \sum_{c=1}^{C} CE(c, f)

    Args:
        label_smoothing: :math:`\epsilon`, at least 0 and below 1.

    Raises:
        ValueError: If ``label_smoothing`` is outside this range.

    Example:
        >>> import torch
        >>> CrossEntropy()(torch.zeros(2, 8, 4, 4), torch.zeros(2, 4), torch.tensor([0, 3]))  # ln 4
        tensor(1.3863)
    """

    def __init__(self, label_smoothing: float = 0.0) -> None:
        super().__init__()
        refuse_smoothing(label_smoothing)
        self.label_smoothing = label_smoothing

    def forward(self, feature_map: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the mean cross-entropy, in nats; see `LocalLoss.forward`. The feature map is not looked at."""
        return _smoothed_cross_entropy(logits, target, self.label_smoothing)

    def extra_repr(self) -> str:
        """The option, for ``print``."""
        return f"label_smoothing={self.label_smoothing}"


class SimilarityMatching(LocalLoss):
    r"""Similarity matching (Nøkland and Eidnes 2019): images of one class get like features, others unlike ones.

    .. math:: L = L_{sim}(W * f, y) + CE(y, g(\mathrm{stop}(f)))

    The first term, `similarity_loss`, trains the features f alone, seen through a 3x3 convolution W of the loss's
    own. The second trains the classifier g alone, since routing and monitoring read its logits: for this
    `detaches_features` asks for logits of the detached feature map. The value is the sum of the two.

    Args:
        channels: Channels of the feature map.
        projected: Whether there is a W, without bias; else the features are compared as they are.

    Raises:
        ValueError: If ``channels`` is below 1.

    Example:
        >>> import torch
        >>> loss = SimilarityMatching(8)
        >>> [name for name, _ in loss.named_parameters()]
        ['projection.weight']
        >>> features = torch.randn(2, 8, 4, 4, requires_grad=True)
        >>> logits = torch.nn.Linear(8 * 4 * 4, 3)(features.detach().flatten(1))
        >>> loss(features, logits, torch.tensor([0, 2])).shape
        torch.Size([])
    """

    detaches_features: ClassVar[bool] = True

    def __init__(self, channels: int, projected: bool = True) -> None:
        super().__init__()
        self.projection = _projection(channels, projected)

    def forward(self, feature_map: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Compute similarity loss plus cross-entropy; see `LocalLoss.forward`."""
        similarity = similarity_loss(self.projection(feature_map), target, logits.shape[1])
        return similarity + cross_entropy(logits, target)


class PredSim(LocalLoss):
    r"""Nøkland and Eidnes' (2019) mix of prediction and similarity matching.

    .. math:: L = (1 - w)\, CE(y, g(f)) + w\, L_{sim}(W * f, y)

    Both terms train the features; at a weight of 1 the classifier g learns nothing.

    Args:
        channels: Channels of the feature map.
        weight: w, the share of `similarity_loss`, from 0 to 1.
        projected: Whether the features are compared through a 3x3 convolution W, without bias, of the loss's own.
        label_smoothing: Of the cross-entropy, see `CrossEntropy`.

    Raises:
        ValueError: If ``weight`` or ``label_smoothing`` is out of range, or ``channels`` below 1.

    Example:
        >>> import torch
        >>> loss = PredSim(8, weight=0.5, projected=False)
        >>> constant = torch.zeros(2, 8, 4, 4)
        >>> loss(constant, torch.zeros(2, 4), torch.tensor([0, 3]))  # (ln 4 + (1 + 1 + 1/9 + 1/9) / 4) / 2
        tensor(0.9709)
    """

    def __init__(
        self, channels: int, weight: float = 0.99, projected: bool = True, label_smoothing: float = 0.0
    ) -> None:
        super().__init__()
        if not 0 <= weight <= 1:
            raise ValueError(f"weight={weight} must be from 0, cross-entropy alone, to 1, similarity alone")
        self.weight = weight
        self.prediction = CrossEntropy(label_smoothing)
        self.projection = _projection(channels, projected)

    def forward(self, feature_map: Tensor, logits: Tensor, target: Tensor) -> Tensor:
        """Compute the weighted sum; see `LocalLoss.forward`."""
        prediction: Tensor = self.prediction(feature_map, logits, target)
        similarity = similarity_loss(self.projection(feature_map), target, logits.shape[1])
        return (1 - self.weight) * prediction + self.weight * similarity

    def extra_repr(self) -> str:
        """The option, for ``print``."""
        return f"weight={self.weight}"


def _projection(channels: int, projected: bool) -> nn.Module:
    """What the features are seen through before they are compared."""
    at_least(1, "channel, of the feature map", channels=channels)
    if not projected:
        return nn.Identity()
    return glorot_(nn.Conv2d(channels, channels, 3, padding=1, bias=False))


def local_loss(kind: LocalLossKind, channels: int, options: Mapping[str, Any] | None = None) -> LocalLoss:
    """Build a local loss by name.

    Args:
        kind: ``"cross_entropy"`` (the paper's), ``"label_smoothing"`` (the same, smoothed by 0.1 unless told
            otherwise), ``"similarity"`` (`SimilarityMatching`) or ``"predsim"`` (`PredSim`).
        channels: Channels of the feature map.
        options: Of the loss: ``label_smoothing``, ``projected``, ``weight``.

    Returns:
        The loss, with parameters of its own where it has any.

    Raises:
        ValueError: If the name is unknown, or the loss does not have an option, or its value is out of range.

    Example:
        >>> local_loss("label_smoothing", channels=8)
        CrossEntropy(label_smoothing=0.1)
    """
    makers: dict[str, Callable[..., LocalLoss]] = {
        "cross_entropy": CrossEntropy,
        "label_smoothing": partial(CrossEntropy, label_smoothing=0.1),
        "similarity": partial(SimilarityMatching, channels),
        "predsim": partial(PredSim, channels),
    }
    if kind not in makers:
        raise ValueError(f"local_loss={kind!r} is unknown; use one of {', '.join(map(repr, makers))}")
    return with_options("local_loss", kind, makers[kind], options)
