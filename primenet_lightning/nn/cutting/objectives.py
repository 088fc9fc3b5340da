"""What a part of a model learns from: its features, the targets and perhaps the images give a loss and logits."""

from abc import ABC, abstractmethod
from typing import ClassVar, NamedTuple

from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.nn.cutting.classifiers import Place
from primenet_lightning.nn.cutting.features import ToMaps
from primenet_lightning.nn.layers import at_least_float32
from primenet_lightning.nn.losses import CrossEntropy, PredSim


class Judgement(NamedTuple):
    """What a local objective makes of features.

    Attributes:
        loss: A scalar.
        logits: ``(batch, classes)``.
    """

    loss: Tensor
    logits: Tensor


class Objective(nn.Module, ABC):
    """What a part learns from; its own parameters, such as those of a local classifier, learn with the part.

    Attributes:
        needs_images: Whether it looks at the images, and not only at the part's features.
        needs_next_part: Whether it looks at the part that follows, so that both have to be in one process.

    Example:
        >>> import torch
        >>> class Linear(Objective):  # one's own
        ...     def __init__(self):
        ...         super().__init__()
        ...         self.classifier = nn.Linear(8, 3)
        ...     def forward(self, features, target, images=None):
        ...         logits = self.classifier(features)
        ...         return Judgement(functional.cross_entropy(logits, target), logits)
        >>> Linear()(torch.zeros(2, 8), torch.tensor([0, 2])).logits.shape
        torch.Size([2, 3])
    """

    needs_images: ClassVar[bool] = False
    needs_next_part: ClassVar[bool] = False

    @abstractmethod
    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Judge a batch.

        Args:
            features: What the part hands on, ``(batch, ...)``, with its graph.
            target: Class indices, ``(batch,)``.
            images: What the first part took, ``(batch, channels, height, width)``; None where no objective needs it.

        Returns:
            Loss and logits.
        """


class Classified(Objective):
    """Cross-entropy of a local classifier; with label smoothing, of softened targets.

    Args:
        classifier: From the part's features to logits.
        label_smoothing: The share of the target that is spread over all classes.

    Example:
        >>> import torch
        >>> objective = Classified(nn.Linear(8, 4), label_smoothing=0.1)
        >>> objective(torch.zeros(2, 8), torch.tensor([0, 2])).loss.shape
        torch.Size([])
    """

    def __init__(self, classifier: nn.Module, label_smoothing: float = 0.0) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss = CrossEntropy(label_smoothing)

    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Classify, and compare with the targets; see `Objective.forward`."""
        logits = self.classifier(features)
        return Judgement(self.loss(features, logits, target), logits)


class Similar(Objective):
    """Prediction and similarity matching, see `primenet_lightning.nn.losses.PredSim`.

    Args:
        place: Where the part stands.
        classifier: From the part's features to logits.
        weight: The share of the similarity loss; the cross-entropy has the rest.
        projected: Whether features are compared through a 3x3 convolution of the loss's own.
        label_smoothing: Of the cross-entropy.
    """

    def __init__(
        self, place: Place, classifier: nn.Module, weight: float, projected: bool, label_smoothing: float
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.maps = ToMaps(place.features.layout)
        self.loss = PredSim(place.features.channels, weight, projected, label_smoothing)

    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Classify, compare with the targets, and compare how alike the images are; see `Objective.forward`."""
        logits = self.classifier(features)
        return Judgement(self.loss(self.maps(features), logits, target), logits)


class Reconstructed(Objective):
    r"""InfoPro: a small decoder reconstructs the images, beside a local classifier (Wang et al. 2021).

    .. math:: L = \lambda_1\, BCE(\sigma(D(f)), x) + \lambda_2\, CE(y, g(f))

    The decoder D: bilinear interpolation to the images' size, 3x3 convolution to 12 channels, batch norm, ReLU, 3x3
    convolution to the images' channels. x are the images with pixels from 0 to 1.

    Args:
        place: Where the part stands.
        classifier: g, from the part's features to logits.
        reconstruction: :math:`\lambda_1`.
        prediction: :math:`\lambda_2`.
        mean: That was taken from the pixels when they were normalised.
        std: That they were then divided by.
        label_smoothing: Of the cross-entropy.
    """

    needs_images = True

    def __init__(
        self,
        place: Place,
        classifier: nn.Module,
        reconstruction: float,
        prediction: float,
        mean: float = 0.5,
        std: float = 0.5,
        label_smoothing: float = 0.0,
    ) -> None:
        super().__init__()
        self.classifier = classifier
        self.loss = CrossEntropy(label_smoothing)
        self.reconstruction = reconstruction
        self.prediction = prediction
        self.mean = mean
        self.std = std
        self.maps = ToMaps(place.features.layout)
        self.decoder = nn.Sequential(
            nn.Conv2d(place.features.channels, 12, 3, padding=1),
            nn.BatchNorm2d(12),
            nn.ReLU(),
            nn.Conv2d(12, place.image_shape[0], 3, padding=1),
        )

    def forward(self, features: Tensor, target: Tensor, images: Tensor | None = None) -> Judgement:
        """Classify and reconstruct; see `Objective.forward`."""
        assert images is not None
        logits = self.classifier(features)
        prediction = self.loss(features, logits, target)
        return Judgement(
            self.reconstruction * self.reconstruction_loss(features, images) + self.prediction * prediction, logits
        )

    def reconstruction_loss(self, features: Tensor, images: Tensor) -> Tensor:
        """Compare the images with what the decoder makes of the features.

        Args:
            features: ``(batch, ...)``.
            images: Normalised, ``(batch, channels, height, width)``.

        Returns:
            Binary cross-entropy, a scalar, in nats.
        """
        maps = functional.interpolate(
            square(self.maps(features)), size=images.shape[2:], mode="bilinear", align_corners=True
        )
        pixels = (images.detach() * self.std + self.mean).clamp(0, 1)
        decoded = at_least_float32(self.decoder(maps))
        return functional.binary_cross_entropy_with_logits(decoded, pixels.to(decoded.dtype))


def square(maps: Tensor) -> Tensor:
    """Lay a column of tokens out as the square that they come from, without a class token.

    Args:
        maps: ``(batch, channels, height, width)``.

    Returns:
        ``(batch, channels, side, side)`` where there is one column of a square number of pixels, or of one more;
        others as they are.

    Example:
        >>> import torch
        >>> square(torch.zeros(2, 8, 50, 1)).shape, square(torch.zeros(2, 8, 6, 1)).shape
        (torch.Size([2, 8, 7, 7]), torch.Size([2, 8, 6, 1]))
    """
    tokens = maps.shape[2]
    side = int(tokens**0.5)
    if maps.shape[3] != 1 or tokens - side * side > 1 or side < 2:
        return maps
    return maps[:, :, tokens - side * side :].reshape(*maps.shape[:2], side, side)
