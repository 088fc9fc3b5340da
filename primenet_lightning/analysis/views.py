"""What each capsule makes of an image: its maps, its verdict, and whether it is routed; and the image made visible."""

from collections.abc import Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import least_entropy


class CapsuleView(NamedTuple):
    """What all capsules make of a batch.

    Attributes:
        maps: By full name, ``(batch, channels, height, width)``, float32 on the CPU.
        logits: By full name, ``(batch, classes)``, float32 on the CPU; also ``"head"``'s.
        route: Index of the routed capsule of each block and image, ``(blocks, batch)``, under the inference route; -1
            where all maps go on.
    """

    maps: dict[str, Tensor]
    logits: dict[str, Tensor]
    route: Tensor


def view_capsules(model: PrimeNet, images: Tensor, labels: Tensor) -> CapsuleView:
    """Run every capsule on its own block's input under the inference route, in the modes the parts are in.

    Args:
        model: In evaluation mode.
        images: ``(batch, channels, height, width)``, on any device.
        labels: Class indices, ``(batch,)``.

    Returns:
        Maps, logits and route.
    """
    network = model.network
    maps: dict[str, Tensor] = {}
    inputs: dict[str, Tensor] = {}
    with ExitStack() as hooks:
        for names, block in zip(network.capsule_names, network.prime_blocks, strict=True):
            for name, capsule in zip(names, block.in_order, strict=True):
                hooks.callback(capsule.register_forward_hook(_keep(maps, inputs, name)).remove)
        evaluation = network.evaluate(model.images_of(images.to(model.device)), labels.to(model.device))
    logits = {name: scores.float().cpu() for name, scores in evaluation.logits.items()}
    route: list[Tensor] = []
    for names, block, index in zip(network.capsule_names, network.prime_blocks, evaluation.route, strict=True):
        logits_of_capsules = [logits[name] for name in names]
        route.append(_taken(block.router, inputs[names[0]], logits_of_capsules, index).cpu())
    return CapsuleView(maps, logits, torch.stack(route))


def _keep(maps: dict[str, Tensor], inputs: dict[str, Tensor], name: str) -> Any:
    """A hook that keeps the map which a capsule gives beside its logits, and what it made that of."""

    def hook(capsule: nn.Module, args: tuple[Tensor, ...], output: tuple[Tensor, Tensor]) -> None:
        maps[name] = output[0].float().cpu()
        inputs[name] = args[0]

    return hook


def _taken(router: Router, x: Tensor, logits: Sequence[Tensor], index: int) -> Tensor:
    """The capsule whose map each image takes; under a route without an index, the surest."""
    if router.chooses and index < 0:
        return least_entropy(torch.stack(list(logits)))
    return router.taken(x, logits, index)


def as_pixels(images: Tensor, mean: Any = None, std: Any = None) -> Tensor:
    """Turn normalised images back into pictures.

    Args:
        images: ``(images, channels, height, width)``; those of uint8 have not been normalised, and stay as they are.
        mean: Per channel, with pixels measured from 0 to 1, subtracted at normalisation. Without it, or if it does not
            fit, each channel is stretched: its least value over all images is black, its largest white.
        std: Per channel, divided by.

    Returns:
        uint8, ``(images, height, width, 3)``; where there are not three channels ``(images, height, width)``, the
        first channel.

    Example:
        >>> as_pixels(torch.tensor([-1.0, 0.0, 1.0]).view(1, 1, 1, 3), mean=(0.5,), std=(0.5,)).tolist()
        [[[0, 128, 255]]]
    """
    pixels = images
    if images.dtype != torch.uint8:
        pixels = _denormalised(images.float(), mean, std)
    if images.shape[1] == 3:
        return pixels.permute(0, 2, 3, 1).contiguous()
    return pixels[:, 0].contiguous()


def _denormalised(images: Tensor, mean: Any, std: Any) -> Tensor:
    """uint8, of the same shape."""
    if images.numel():
        images = _between_0_and_1(images, mean, std)
    return (images.nan_to_num().clamp(0, 1) * 255).round().to(torch.uint8)


def _between_0_and_1(images: Tensor, mean: Any, std: Any) -> Tensor:
    """Normalised images in the range of pixels, by what is known of their normalisation, or by their own range."""
    if _fits(mean, images) and _fits(std, images):
        return images * _by_channel(std) + _by_channel(mean)
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    return (images - low) / (high - low).clamp_min(1e-12)


def _by_channel(statistic: Any) -> Tensor:
    return torch.as_tensor(statistic).float().view(1, -1, 1, 1)


def _fits(statistic: Any, images: Tensor) -> bool:
    """Whether there is one number for all channels, or one per channel."""
    return statistic is not None and torch.as_tensor(statistic).numel() in (1, images.shape[1])


def named_classes(names: Sequence[Any] | None, count: int) -> list[str]:
    """Say what the classes are called.

    Args:
        names: As the data has them; None if it has none.
        count: Number of classes.

    Returns:
        The names, if there are as many as classes; else the classes' numbers.

    Example:
        >>> named_classes(("cat", "dog"), 2), named_classes(None, 2)
        (['cat', 'dog'], ['0', '1'])
    """
    if names and len(names) == count:
        return [str(name) for name in names]
    return [str(index) for index in range(count)]
