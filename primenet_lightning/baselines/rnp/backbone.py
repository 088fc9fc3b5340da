"""The convolutional network of RNP: each layer computes as many groups of its channels as it is told."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from primenet_lightning.arguments import at_least, whole_number
from primenet_lightning.nn.resnets import he_

Choose = Callable[[Tensor], Tensor]
"""From the map that enters a layer, ``(batch, channels, height, width)``, to groups from 1, int64 ``(batch,)``."""


class PrunableConvNet(nn.Module):
    """3x3 convolutions with ReLU, max pooling after some of them, global average pooling, and a linear classifier.

    The channels of a layer are in ``groups`` groups of equal size; of each image the first so many are computed, and
    the rest are zero to the layer that follows. There is no batch norm, which would make them something else. The first
    layer is always whole: nothing is known yet that it could be decided by.

    Args:
        in_shape: Channels, height and width of the images.
        num_classes: Number of classes.
        widths: Channels of each convolution.
        pool_after: Convolutions, counted from 1, that a 2x2 max pooling follows.
        groups: Groups of channels.

    Raises:
        ValueError: If there are fewer than two convolutions, if a width does not divide by ``groups``, if
            ``pool_after`` names a convolution that is not there, or if nothing is left of the map.

    Example:
        >>> network = PrunableConvNet((1, 28, 28), 10, widths=(8, 32, 32, 32), pool_after=(1, 2))
        >>> whole = torch.full((1, 4), 4)
        >>> network.convolution_cost(whole).item()  # multiply-adds
        1411200.0
        >>> network(torch.zeros(2, 1, 28, 28)).shape
        torch.Size([2, 10])
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        num_classes: int,
        widths: Sequence[int] = (32, 64, 64, 64),
        pool_after: Sequence[int] = (1, 2, 3),
        groups: int = 4,
    ) -> None:
        super().__init__()
        _refuse(widths, pool_after, groups)
        self.groups = groups
        self.widths = tuple(widths)
        self.pool_after = frozenset(pool_after)
        self.convolutions = nn.ModuleList()
        self.sizes: list[tuple[int, int]] = []
        channels, height, width = in_shape
        for number, out_channels in enumerate(widths, start=1):
            at_least(1, "pixel of map; leave out some of pool_after", height=height, width=width)
            self.convolutions.append(nn.Conv2d(channels, out_channels, 3, padding=1))
            self.sizes.append((height, width))
            channels = out_channels
            if number in self.pool_after:
                height, width = height // 2, width // 2
        at_least(1, "pixel of map; leave out some of pool_after", height=height, width=width)
        self.classifier = nn.Linear(channels, num_classes)
        he_(self)

    @property
    def layers(self) -> int:
        """How many convolutions there are."""
        return len(self.widths)

    # -- with all channels, or those not chosen masked -----------------------------------------------------------------

    def forward(self, x: Tensor, choose: Choose | None = None) -> Tensor:
        """Classify, with the channels that are not chosen set to zero; the graph is whole.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            choose: Says before each layer but the first how many groups of it are computed, ``(batch,)``; None computes
                all.

        Returns:
            Logits, ``(batch, classes)``.
        """
        for layer in range(self.layers):
            chosen = choose(x) if choose is not None and layer > 0 else None
            x = self.layer(layer, x, chosen)
            x = self.pool(layer, x)
        logits: Tensor = self.classifier(x.mean((2, 3)))
        return logits

    def layer(self, layer: int, x: Tensor, chosen: Tensor | None = None) -> Tensor:
        """Run one convolution and its ReLU, and mask.

        Args:
            layer: From 0.
            x: ``(batch, channels, height, width)``.
            chosen: Groups from 1, int64 ``(batch,)``; None is all.

        Returns:
            ``(batch, width, height, width)``, with zeros in the channels that are not chosen.
        """
        x = self.convolutions[layer](x).relu()
        if chosen is None:
            return x
        channel = torch.arange(self.widths[layer], device=x.device)
        computed = channel < self.channels(layer, chosen)[:, None]
        return x * computed[:, :, None, None]

    def pool(self, layer: int, x: Tensor) -> Tensor:
        """Pool after a layer, where that is so.

        Args:
            layer: From 0.
            x: ``(batch, channels, height, width)``.

        Returns:
            The same, or half as high and wide, ``(batch, channels, height, width)``.
        """
        return functional.max_pool2d(x, 2) if layer + 1 in self.pool_after else x

    def channels(self, layer: int, chosen: Tensor) -> Tensor:
        """Tell how many channels so many groups are.

        Args:
            layer: From 0.
            chosen: Groups, of any shape.

        Returns:
            Channels, of the same shape.
        """
        return chosen * (self.widths[layer] // self.groups)

    # -- with the channels chosen alone --------------------------------------------------------------------------------

    @torch.no_grad()
    def compute(self, x: Tensor, choose: Choose) -> tuple[Tensor, Tensor]:
        """Classify, computing the channels that are chosen and no others: images of equal choices go together.

        Args:
            x: Images, ``(batch, channels, height, width)``.
            choose: Says before each layer but the first how many groups of it are computed, ``(batch,)``.

        Returns:
            Logits, ``(batch, classes)``, and groups computed, int64 ``(batch, layers)``.
        """
        all_groups = torch.full((len(x),), self.groups, device=x.device)
        chosen = [all_groups]
        x = self.pool(0, self.layer(0, x))
        for layer in range(1, self.layers):
            chosen.append(choose(x))
            x = self.pool(layer, self._compute_layer(layer, x, chosen[-2], chosen[-1]))
        return self._compute_classes(x.mean((2, 3)), chosen[-1]), torch.stack(chosen, dim=1)

    def _compute_layer(self, layer: int, x: Tensor, given: Tensor, chosen: Tensor) -> Tensor:
        convolution = self.convolutions[layer]
        assert isinstance(convolution, nn.Conv2d)
        assert convolution.bias is not None
        output = x.new_zeros(len(x), self.widths[layer], *x.shape[2:])
        pairs = torch.stack([self.channels(layer - 1, given), self.channels(layer, chosen)], dim=1)
        for before, after in torch.unique(pairs, dim=0).tolist():
            images = ((pairs[:, 0] == before) & (pairs[:, 1] == after)).nonzero()[:, 0]
            weight = convolution.weight[:after, :before]
            maps = functional.conv2d(x[images, :before], weight, convolution.bias[:after], padding=1).relu()
            output[images, :after] = maps.to(output.dtype)
        return output

    def _compute_classes(self, features: Tensor, chosen: Tensor) -> Tensor:
        logits = features.new_zeros(len(features), self.classifier.out_features)
        counts = self.channels(self.layers - 1, chosen)
        for count in torch.unique(counts).tolist():
            images = (counts == count).nonzero()[:, 0]
            weight = self.classifier.weight[:, :count]
            answers = functional.linear(features[images, :count], weight, self.classifier.bias)
            logits[images] = answers.to(logits.dtype)
        return logits

    # -- cost ----------------------------------------------------------------------------------------------------------

    def convolution_cost(self, chosen: Tensor) -> Tensor:
        r"""Compute the multiply-adds of the convolutions: :math:`\sum_t h_t w_t K^2 c_{t-1} c_t`.

        Args:
            chosen: Groups from 1, int64 ``(batch, layers)``.

        Returns:
            By image, float64 ``(batch,)``; c are the channels computed.
        """
        convolution = self.convolutions[0]
        assert isinstance(convolution, nn.Conv2d)
        before = torch.full_like(chosen[:, 0], convolution.in_channels)
        total = torch.zeros(len(chosen), dtype=torch.float64, device=chosen.device)
        for layer, (height, width) in enumerate(self.sizes):
            after = self.channels(layer, chosen[:, layer])
            total += height * width * 9 * before * after
            before = after
        return total

    def classifier_cost(self, chosen: Tensor) -> Tensor:
        """Compute the multiply-adds of the classifier.

        Args:
            chosen: Groups from 1, int64 ``(batch, layers)``.

        Returns:
            By image, float64 ``(batch,)``.
        """
        channels = self.channels(self.layers - 1, chosen[:, -1])
        return (channels * self.classifier.out_features).double()


def _refuse(widths: Sequence[int], pool_after: Sequence[int], groups: int) -> None:
    whole_number(2, groups=groups)
    if len(widths) < 2:
        raise ValueError(f"widths={list(widths)} are too few; give at least two, since the first layer is always whole")
    for width in widths:
        whole_number(1, widths=width)
        if width < groups or width % groups:
            raise ValueError(
                f"widths={list(widths)} has {width}, which does not divide into groups={groups} of equal size; give "
                f"multiples of {groups}"
            )
    for number in pool_after:
        whole_number(1, pool_after=number)
        if number > len(widths):
            raise ValueError(
                f"pool_after={list(pool_after)} has {number}, but the convolutions are counted from 1 to {len(widths)}"
            )
