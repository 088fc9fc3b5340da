"""Capsules: a feature extractor with a local classifier that teaches it."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.nn.classifiers import FollowingLayer, LocalClassifier, glorot_, local_classifier
from primenet_lightning.nn.layout import autocast_off, channels_last, is_plain
from primenet_lightning.nn.losses import LocalLoss, LocalLossKind, local_loss


class Capsule(nn.Module):
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
        """
        feature_map = self.features(x)
        apart = self.loss is not None and self.loss.detaches_features
        return feature_map, self.classifier(feature_map.detach() if apart else feature_map)


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
        >>> features = ConvFeatures(1, kernel_size=7, reduce_channels=4, channels=8, stride=2)
        >>> features(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 8, 14, 14])
    """

    def __init__(
        self, in_channels: int, kernel_size: int, reduce_channels: int, channels: int, stride: int = 1
    ) -> None:
        super().__init__(
            nn.Conv2d(in_channels, reduce_channels, kernel_size=1, bias=False) if reduce_channels else nn.Identity(),
            nn.Conv2d(
                reduce_channels or in_channels,
                channels,
                kernel_size,
                stride=1 if kernel_size == 1 else stride,
                padding=kernel_size // 2,
                bias=False,
            ),
            nn.BatchNorm2d(channels),
            nn.LeakyReLU(),
        )
        glorot_(self)
        self.folds = in_channels <= reduce_channels
        # pixels that no kernel sees are left out beforehand: channels last, the backward of torch's own strided 1x1
        # convolution writes outside its memory where threads share an odd batch (torch 2.15 on CPUs)
        self.skips = stride if kernel_size == 1 else 1

    def __getitem__(self, idx: slice | int) -> Any:
        """A layer, or some of them in a plain `nn.Sequential`."""
        return nn.Sequential(*list(self)[idx]) if isinstance(idx, slice) else super().__getitem__(idx)

    def forward(self, x: Tensor) -> Tensor:
        """Compute the feature map.

        Args:
            x: ``(batch, in_channels, height, width)``.

        Returns:
            ``(batch, channels, height', width')``.
        """
        reduce, spatial, *rest = self
        x = channels_last(x if self.skips == 1 else x[:, :, :: self.skips, :: self.skips])
        if self.folds and is_plain(reduce, nn.Conv2d) and is_plain(spatial, nn.Conv2d) and _fit(reduce, spatial):
            x = functional.conv2d(x, fold(reduce, spatial), None, spatial.stride, spatial.padding)
        else:
            x = spatial(reduce(x))
        for layer in rest:
            x = layer(x)
        return x


def _fit(reduce: nn.Conv2d, spatial: nn.Conv2d) -> bool:
    """Whether two convolutions are of the kind that is built here."""
    simple = all(
        layer.bias is None and layer.groups == 1 and layer.dilation == (1, 1) and layer.padding_mode == "zeros"
        for layer in (reduce, spatial)
    )
    return simple and (reduce.kernel_size, reduce.stride, reduce.padding) == ((1, 1), (1, 1), (0, 0))


def fold(reduce: nn.Conv2d, spatial: nn.Conv2d) -> Tensor:
    """Give the kernel of the one convolution that equals a 1x1 convolution followed by another, neither with a bias.

    Args:
        reduce: The 1x1 convolution.
        spatial: The one after it, with zeros as padding.

    Returns:
        ``(channels, in_channels, k, k)``, in the weights' precision also under autocast, which then rounds once.
    """
    with autocast_off(spatial.weight):
        return torch.einsum("orhw,rc->ochw", spatial.weight, reduce.weight.flatten(1))


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
        map_size = (-(-image_size[0] // stride), -(-image_size[1] // stride))
        plain = loss == "cross_entropy" and not loss_options
        taught = None if plain else local_loss(loss, channels, loss_options)
        judge = local_classifier(classifier, channels, map_size, num_classes, following, classifier_options)
        super().__init__(features, judge, taught)
