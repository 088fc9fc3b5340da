"""What each capsule says of an image: its maps, its verdict, and whether it is routed."""

from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from lightning.pytorch import Trainer
from torch import Tensor, nn

from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.prime.mixing import Gate
from primenet_lightning.nn.prime.router import Router
from primenet_lightning.nn.prime.routes import least_entropy

if TYPE_CHECKING:
    pass


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
    network, maps, scores = model.network, dict[str, Tensor](), dict[int, Tensor]()

    def keep(name: str) -> Any:
        def hook(module: nn.Module, args: Any, output: tuple[Tensor, Tensor]) -> None:
            maps[name] = output[0].float().cpu()

        return hook

    with ExitStack() as hooks:
        for i, (names, block) in enumerate(zip(network.capsule_names, network.prime_blocks, strict=True)):
            if isinstance(block.router, Gate):
                hooks.callback(block.router.register_forward_hook(partial(_keep_scores, scores, i)).remove)
            for name, capsule in zip(names, block.capsules.values(), strict=True):
                hooks.callback(capsule.register_forward_hook(keep(name)).remove)
        seen = network.evaluate(model._images(images.to(model.device)), labels.to(model.device))
    logits = {name: scores.float().cpu() for name, scores in seen.logits.items()}
    rows = [
        _routed(block.router, [logits[name] for name in names], index, scores.get(i))
        for i, (names, block, index) in enumerate(
            zip(network.capsule_names, network.prime_blocks, seen.route, strict=True)
        )
    ]
    return CapsuleView(maps, logits, torch.stack(rows))


def _keep_scores(scores: dict[int, Tensor], block: int, module: nn.Module, args: Any, output: Tensor) -> None:
    scores[block] = output.float().cpu()  # the last time in a pass is the choice


def _routed(router: Router, logits: list[Tensor], index: int, scores: Tensor | None) -> Tensor:
    """The routed capsule of each image in a block."""
    if isinstance(router, Gate) and scores is not None and router.per == "sample":
        return scores.argmax(1)
    if not (router.chooses or isinstance(router, Gate)):
        index = -1
    elif index < 0:  # each image takes the surest
        return least_entropy(torch.stack(logits))
    return torch.full((len(logits[0]),), index)


def as_pixels(images: Tensor) -> Tensor:
    """Turn normalised images back into pictures, by the range that each channel has over all of them.

    Args:
        images: ``(images, channels, height, width)``.

    Returns:
        uint8, ``(images, height, width, 3)``; where there are not three channels ``(images, height, width)``, the
        first channel.
    """
    images = images.float()
    low, high = images.amin((0, 2, 3), keepdim=True), images.amax((0, 2, 3), keepdim=True)
    pixels = ((images - low) / (high - low).clamp_min(1e-12) * 255).round().to(torch.uint8)
    return pixels.permute(0, 2, 3, 1).contiguous() if images.shape[1] == 3 else pixels[:, 0].contiguous()


def names_of_classes(trainer: Trainer, num_classes: int) -> list[str]:
    """Say what the classes are called.

    Args:
        trainer: Whose data module may know.
        num_classes: Number of classes.

    Returns:
        The data module's ``class_names``, if there are as many as classes; else the classes' numbers.
    """
    names = getattr(getattr(trainer, "datamodule", None), "class_names", None) or ()
    return [str(name) for name in names] if len(names) == num_classes else [str(i) for i in range(num_classes)]
