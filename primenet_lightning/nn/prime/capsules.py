"""Capsules: a feature extractor with a local classifier that teaches it."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from primenet_lightning.argument_types import CheckedArguments
from primenet_lightning.arguments import at_least
from primenet_lightning.nn.classifiers import FollowingLayer, LocalClassifier, local_classifier
from primenet_lightning.nn.fast import run_convolutions
from primenet_lightning.nn.in_place import unchanged
from primenet_lightning.nn.layers import glorot_, size_after
from primenet_lightning.nn.layout import channels_last
from primenet_lightning.nn.losses import LocalLoss, LocalLossKind, local_loss


class Capsule(nn.Module, metaclass=CheckedArguments):
    r"""A unit that learns from its own loss (section 3.2, figure 1, equation 2).

    Any two modules will do: ``features`` turns the block's input into a feature map, ``classifier`` turns that map
    into logits. Only the map leaves the capsule; the logits serve the capsule's own cross-entropy.

    Args:
        features: Maps ``(batch, channels, height, width)`` to a feature map of four dimensions.
        classifier: Maps the feature map to logits ``(batch, classes)``.
        loss: What it learns from; None leaves that to its block, whose default is the cross-entropy of equation 1. Its
            own parameters, where it has any, belong to the capsule.

    Example:
        >>> import torch
        >>> from torch import nn
        >>> backbone = nn.Conv2d(1, 4, kernel_size=3, padding=1)
        >>> capsule = Capsule(backbone, nn.Sequential(nn.Flatten(), nn.Linear(4 * 8 * 8, 10)))
        >>> feature_map, logits = capsule(torch.zeros(2, 1, 8, 8))
        >>> feature_map.shape, logits.shape
        (torch.Size([2, 4, 8, 8]), torch.Size([2, 10]))
    """

    def __init__(self, features: nn.Module, classifier: nn.Module, loss: LocalLoss | None = None) -> None:
        super().__init__()
        self.features = features
        self.classifier = classifier
        self.loss = loss

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Compute the feature map and the local classifier's verdict on it.

        Args:
            x: The block's input, ``(batch, channels, height, width)``.

        Returns:
            The feature map, ``(batch, channels', height', width')``, and the logits, ``(batch, classes)``.

        Raises:
            ValueError: If the classifier changes the feature map in place.
        """
        feature_map: Tensor = self.features(x)
        classified = feature_map
        if self.loss is not None and self.loss.detaches_features:
            classified = feature_map.detach()
        with unchanged(feature_map, "the classifier of a capsule", "the router and the next block"):
            logits = self.classifier(classified)
        return feature_map, logits


class ConvFeatures(nn.Sequential):
    r"""1x1 convolution, k x k convolution, batch norm, LeakyReLU: the features of the paper's capsule (section 3.3).

    Nothing stands between the two convolutions, so that together they are one, of kernel
    :math:`W_{o,c} = \sum_r W^{(k)}_{o,r} W^{(1)}_{r,c}`. Where the 1x1 does not reduce the channels, as on images, they
    are run as that one: equal but for rounding, also in its gradients, at less than :math:`C / R` of the multiply-adds
    and without the 1x1's output in memory. The parameters stay two.

    Args:
        in_channels: Channels of the input, :math:`C`.
        kernel_size: Of the second convolution; odd.
        reduce_channels: Channels between the two, :math:`R`; 0 leaves the 1x1 out, as in plain networks.
        channels: Channels of the feature map.
        stride: Of the second convolution.

    Attributes:
        skips: Of so many rows and columns only the first goes in: the stride of a 1x1 kernel, else 1.
        folds: Whether the two run as one. Each runs by itself in any case where one was replaced by a layer that does
            not allow it, is parametrized, or has hooks, which would not be called.

    Example:
        >>> import torch
        >>> features = ConvFeatures(1, kernel_size=7, reduce_channels=4, channels=8, stride=2)
        >>> features(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 8, 14, 14])
    """

    def __init__(
        self, in_channels: int, kernel_size: int, reduce_channels: int, channels: int, stride: int = 1
    ) -> None:
        at_least(1, kernel_size=kernel_size, channels=channels)
        at_least(0, reduce_channels=reduce_channels)
        folds = in_channels <= reduce_channels
        skips = 1
        if kernel_size == 1:
            # pixels that no kernel sees are left out beforehand: channels last, the backward of torch's own strided 1x1
            # convolution writes outside its memory where threads share an odd batch (torch 2.15 on CPUs)
            skips, stride = stride, 1
        reduce: nn.Module = nn.Identity()
        if reduce_channels:
            reduce = nn.Conv2d(in_channels, reduce_channels, kernel_size=1, bias=False)
            in_channels = reduce_channels
        spatial = nn.Conv2d(in_channels, channels, kernel_size, stride=stride, padding=kernel_size // 2, bias=False)
        super().__init__(reduce, spatial, nn.BatchNorm2d(channels), nn.LeakyReLU())
        glorot_(self)
        self.folds = folds
        self.skips = skips

    def __getitem__(self, idx: slice | int) -> Any:
        """A layer, or some of them in a plain `nn.Sequential`."""
        if isinstance(idx, slice):
            return nn.Sequential(*list(self)[idx])
        return super().__getitem__(idx)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the feature map.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, channels, height', width')``.
        """
        reduce, spatial, *rest = self
        if self.skips > 1:
            x = x[:, :, :: self.skips, :: self.skips]
        x = channels_last(x)
        x = run_convolutions(reduce, spatial, x) if self.folds else spatial(reduce(x))
        for layer in rest:
            x = layer(x)
        return x


class ConvCapsule(Capsule):
    """The paper's capsule: 1x1 convolution, k x k convolution, batch norm, LeakyReLU; then a local classifier.

    The 1x1 convolution reduces the channels before the expensive k x k one (section 3.3). Neither has a bias: batch
    norm follows and takes any constant away.

    Args:
        in_channels: Channels of the input.
        image_size: Height and width of the input, in pixels.
        num_classes: Number of classes.
        kernel_size: The capsule's scale; odd, so that all scales give maps of the same size.
        reduce_channels: Channels after the 1x1 convolution; 0 leaves it out.
        channels: Channels of the feature map.
        stride: Stride of the k x k convolution; 2 gives maps at half resolution, a quarter of the cost.
        classifier: ``"flatten"`` (flatten, dense: the paper's), or another of `local_classifier`.
        loss: What it learns from, by name; see `primenet_lightning.nn.losses.local_loss`.
        loss_options: Arguments of that loss.
        following: The layers that follow in the network, for the classifier ``"layers"``.
        classifier_options: Further arguments of the classifier.

    Raises:
        ValueError: If ``kernel_size`` is even, or classifier or loss is unknown.

    Example:
        >>> import torch
        >>> capsule = ConvCapsule(1, (28, 28), 10, kernel_size=7, reduce_channels=4, channels=8, stride=2)
        >>> capsule(torch.zeros(2, 1, 28, 28))[0].shape
        torch.Size([2, 8, 14, 14])
    """

    def __init__(
        self,
        in_channels: int,
        image_size: tuple[int, int],
        num_classes: int,
        kernel_size: int,
        reduce_channels: int = 32,
        channels: int = 64,
        stride: int = 1,
        classifier: LocalClassifier = "flatten",
        loss: LocalLossKind = "cross_entropy",
        loss_options: Mapping[str, Any] | None = None,
        following: Sequence[FollowingLayer] = (),
        classifier_options: Mapping[str, Any] | None = None,
    ) -> None:
        if kernel_size % 2 == 0 or kernel_size < 1:
            raise ValueError(
                f"kernel_size={kernel_size} must be odd and positive: maps of even kernels differ in size by a "
                "pixel and cannot replace each other"
            )
        features = ConvFeatures(in_channels, kernel_size, reduce_channels, channels, stride)
        own_loss = None  # plain cross-entropy is left to the block
        if loss != "cross_entropy" or loss_options:
            own_loss = local_loss(loss, channels, loss_options)
        map_size = size_after(stride, image_size)
        logits = local_classifier(
            classifier, channels, map_size, num_classes, following=following, options=classifier_options
        )
        super().__init__(features, logits, own_loss)


def conv_capsules(
    in_channels: int,
    image_size: tuple[int, int],
    num_classes: int,
    kernel_sizes: Sequence[int] = (3, 5, 7),
    reduce_channels: int = 32,
    channels: int = 64,
    stride: int = 1,
    classifier: LocalClassifier = "flatten",
    loss: LocalLossKind = "cross_entropy",
    loss_options: Mapping[str, Any] | None = None,
    following: Sequence[FollowingLayer] = (),
    classifier_options: Mapping[str, Any] | None = None,
) -> dict[str, Capsule]:
    """Build the paper's capsules, one per scale, named ``k3``, ``k5``, ....

    Args:
        in_channels: Channels of the input.
        image_size: Height and width of the input, in pixels.
        num_classes: Number of classes.
        kernel_sizes: Odd scales, each once.
        reduce_channels: Channels after each 1x1 convolution.
        channels: Channels of each map.
        stride: Stride of the k x k convolutions.
        classifier: See `primenet_lightning.nn.classifiers.local_classifier`.
        loss: See `primenet_lightning.nn.losses.local_loss`.
        loss_options: Arguments of that loss.
        following: The layers that follow in the network, for the classifier ``"layers"``.
        classifier_options: Further arguments of the classifier.

    Returns:
        Capsules by name.

    Raises:
        ValueError: If there is no scale, or one is named twice or is even.

    Example:
        >>> import torch
        >>> capsules = conv_capsules(1, (28, 28), num_classes=10, kernel_sizes=(3, 5), channels=16)
        >>> {name: capsule(torch.zeros(2, 1, 28, 28))[0].shape for name, capsule in capsules.items()}
        {'k3': torch.Size([2, 16, 28, 28]), 'k5': torch.Size([2, 16, 28, 28])}
    """
    if not kernel_sizes:
        raise ValueError("kernel_sizes=() names no scale; give at least one, such as 3")
    if len(set(kernel_sizes)) != len(kernel_sizes):
        raise ValueError(f"kernel_sizes={tuple(kernel_sizes)} names a scale twice; give each once")
    capsules: dict[str, Capsule] = {}
    for kernel_size in kernel_sizes:
        capsules[f"k{kernel_size}"] = ConvCapsule(
            in_channels,
            image_size,
            num_classes,
            kernel_size=kernel_size,
            reduce_channels=reduce_channels,
            channels=channels,
            stride=stride,
            classifier=classifier,
            loss=loss,
            loss_options=loss_options,
            following=following,
            classifier_options=classifier_options,
        )
    return capsules
