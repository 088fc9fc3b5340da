"""What a user would pick instead: written out in plain torch, as a user would write it."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.optim import Adam

from primenet_lightning import Architecture, PrimeBlock, PrimeNetwork
from primenet_lightning.baselines import ResNet20 as ResNet20  # for the other benchmarks

Step = Callable[[Tensor, Tensor], object]


def adam(parameters: list[nn.Parameter]) -> Adam:
    """The paper's Adam, in torch's default way of updating."""
    return Adam(parameters, lr=2e-4, betas=(0.99, 0.999))


class PlainPrimeNet(nn.Module):
    """PrimeNet of one block without this package: layers in `nn.Sequential`, in torch's default layout.

    Args:
        in_shape: Channels, height and width of the images.
        widths: The fields of a size.
        kernel_sizes: One capsule per scale.
        classes: Number of classes.
    """

    def __init__(
        self,
        in_shape: tuple[int, int, int],
        widths: Architecture,
        kernel_sizes: tuple[int, ...] = (3, 5, 7),
        classes: int = 10,
    ) -> None:
        super().__init__()
        stride, side = widths.stride, -(-in_shape[1] // widths.stride)
        channels, projected = widths.of_block("channels", 0), widths.of_block("projection_channels", 0)
        flat: nn.Module = nn.Flatten()
        cells = side * side
        if widths.local_classifier != "flatten":
            flat = nn.Sequential(nn.AdaptiveAvgPool2d(4), nn.Flatten())
            cells = 16
        self.features, self.classifiers = nn.ModuleList(), nn.ModuleList()
        for size in kernel_sizes:
            self.features.append(plain_features(in_shape[0], widths, size))
            self.classifiers.append(nn.Sequential(flat, nn.Linear(channels * cells, classes)))
        self.projection = nn.Sequential(
            nn.MaxPool2d(3, stride=stride, padding=1), nn.Conv2d(in_shape[0], projected, 1), nn.ReLU()
        )
        self.head = plain_head(channels + projected, widths.head_channels, side, classes)

    def copy_from(self, network: PrimeNetwork) -> "PlainPrimeNet":
        """Take over the parameters of a network of this package."""
        (block,) = network.prime_blocks
        assert block.projection is not None
        parts = [capsule.features for capsule in block.in_order]
        parts += [capsule.classifier for capsule in block.in_order]
        parts += [block.projection, network.head]
        given: list[nn.Parameter] = []
        for part in parts:
            given += part.parameters()
        with torch.no_grad():
            for parameter, value in zip(self.parameters(), given, strict=True):
                parameter.copy_(value)
        return self

    def learners(self) -> list[list[nn.Parameter]]:
        """Parameters of each capsule, then of projection and head."""
        learners: list[list[nn.Parameter]] = []
        for features, classifier in zip(self.features, self.classifiers, strict=True):
            learners.append([*features.parameters(), *classifier.parameters()])
        learners.append([*self.projection.parameters(), *self.head.parameters()])
        return learners


def plain_features(in_channels: int, widths: Architecture, size: int) -> nn.Sequential:
    """A capsule's features, layer by layer."""
    reduced, channels = widths.of_block("reduce_channels", 0), widths.of_block("channels", 0)
    return nn.Sequential(
        nn.Conv2d(in_channels, reduced, 1, bias=False),
        nn.Conv2d(reduced, channels, size, stride=widths.stride, padding=size // 2, bias=False),
        nn.BatchNorm2d(channels),
        nn.LeakyReLU(),
    )


def plain_head(in_channels: int, channels: int, side: int, classes: int) -> nn.Sequential:
    """The classifier head, layer by layer."""
    return nn.Sequential(
        nn.BatchNorm2d(in_channels),
        nn.MaxPool2d(2),
        nn.Conv2d(in_channels, channels, 3, padding=1),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Flatten(),
        nn.Linear(channels * (side // 4) ** 2, classes),
    )


def naive(net: PlainPrimeNet) -> Step:
    """Local learning as one writes it down: a backward pass and an Adam a capsule."""
    optimizers = [adam(parameters) for parameters in net.learners()]

    def step(images: Tensor, target: Tensor) -> None:
        for optimizer in optimizers:
            optimizer.zero_grad()
        maps, losses = [], []
        for features, classifier in zip(net.features, net.classifiers, strict=True):
            feature_map = features(images)
            loss = functional.cross_entropy(classifier(feature_map), target)
            torch.autograd.backward(loss)
            maps.append(feature_map.detach())
            losses.append(loss.item())
        routed = maps[losses.index(min(losses))]
        logits = net.head(torch.cat([routed, net.projection(images)], 1))
        torch.autograd.backward(functional.cross_entropy(logits, target))
        for optimizer in optimizers:
            optimizer.step()

    return step


def naive_end_to_end(net: PlainPrimeNet) -> Step:
    """The same network by backprop: the mean of all maps goes on, nothing is detached, one Adam."""
    optimizer = adam([*net.features.parameters(), *net.projection.parameters(), *net.head.parameters()])

    def step(images: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        maps = [features(images) for features in net.features]
        logits = net.head(torch.cat([sum(maps[1:], maps[0]) / len(maps), net.projection(images)], 1))
        torch.autograd.backward(functional.cross_entropy(logits, target))
        optimizer.step()

    return step


def one_scale(
    in_shape: tuple[int, int, int], widths: Architecture, device: str, size: int = 5, classes: int = 10
) -> Step:
    """The plain network of figure 7: one scale under the same head, by backprop."""
    side = -(-in_shape[1] // widths.stride)
    net = nn.Sequential(
        plain_features(in_shape[0], widths, size),
        plain_head(widths.of_block("channels", 0), widths.head_channels, side, classes),
    )
    net.to(device)
    optimizer = adam(list(net.parameters()))

    def step(images: Tensor, target: Tensor) -> None:
        optimizer.zero_grad()
        torch.autograd.backward(functional.cross_entropy(net(images), target))
        optimizer.step()

    return step


def mean_and_projection(block: PrimeBlock, x: Tensor) -> Tensor:
    """Run a block of this package as a layer of an end-to-end network: the mean of all maps, nothing detached."""
    assert block.projection is not None
    maps = [capsule.features(x) for capsule in block.in_order]
    return torch.cat([sum(maps[1:], maps[0]) / len(maps), block.projection(x)], dim=1)
