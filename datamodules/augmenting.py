"""Anybody's augmentation, applied to a batch: what it gives back are pixels of the same images, or it is refused."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from primenet_lightning.arguments import first_line
from primenet_lightning.datamodules.augmentation import Augment

OVERSHOOT = 0.25
"""How far pixels from 0 to 1 may lie beyond: bicubic interpolation goes a little too far at edges."""

Augmentation = nn.Module | Callable[[Tensor], Tensor]
"""Takes and returns uint8 images (batch, channels, height, width); one of torchvision's takes single images."""

_REFUSED = {
    "MixUp": "mixes labels too, and every learner here is taught one class an image; leave it out",
    "CutMix": "mixes labels too, and every learner here is taught one class an image; leave it out",
    "Normalize": "normalizes, which the data module does after it; leave it out and give normalization",
    "ToPILImage": "gives PIL pictures, but augmentation works on tensors; leave it out",
}
"""Transforms of torchvision that cannot be part of an augmentation, and why."""

_PIL_ALONE = ("ToTensor", "PILToTensor")
"""Transforms of torchvision's version 1 that take nothing but PIL pictures."""


def refuse_augmentation(augmentation: Any) -> None:
    """Check an augmentation for what cannot work, before anything runs.

    Args:
        augmentation: As the user gave it; None for none.

    Raises:
        TypeError: If it cannot be called.
        ValueError: If it, or a part of it, is a transform of torchvision that mixes labels, normalizes, or makes or
            takes PIL pictures; or if flips alternate after another part.
    """
    if augmentation is None:
        return
    if isinstance(augmentation, type) or not callable(augmentation):
        raise TypeError(
            f"augmentation={augmentation!r} takes no images; give a module or a function that takes uint8 images, or "
            "several in a torchvision.transforms.v2.Compose"
        )
    for part in transform_parts(augmentation):
        _refuse_alternating_later(part)
        names = _torchvision_names(part)
        for name in names & _REFUSED.keys():
            raise ValueError(f"augmentation has torchvision's {name}, which {_REFUSED[name]}.")
        of_version_1 = not type(part).__module__.startswith("torchvision.transforms.v2")
        if of_version_1 and names & {*_PIL_ALONE}:
            raise ValueError(
                f"augmentation has torchvision's {type(part).__name__}, which takes PIL pictures, but augmentation "
                "works on uint8 tensors; leave it out."
            )


def _refuse_alternating_later(transform: Any) -> None:
    for place, child in enumerate(_children(transform)):
        if place and any(_alternates(part) for part in transform_parts(child)):
            raise ValueError(
                "augmentation has Augment(flip='alternating') after another part, whose changes make each image a new "
                "one to it; give it first."
            )


def _alternates(transform: Any) -> bool:
    return isinstance(transform, Augment) and transform.flip == "alternating"


def set_epoch(augmentation: Augmentation, epoch: int, seed: int) -> None:
    """Tell all parts that ask for it which epoch it is.

    Args:
        augmentation: One `Augment`, or a sequence with some, of images ``(batch, channels, height, width)``; any other
            is left alone.
        epoch: Counted from 0.
        seed: Of the data.
    """
    for part in transform_parts(augmentation):
        if isinstance(part, Augment):
            part.set_epoch(epoch, seed)


def augmented(augmentation: Augmentation, images: Tensor) -> Tensor:
    """Augment a batch, and check what comes back.

    Transforms of torchvision draw their random numbers once a call, so they are called image by image; anything else
    gets the whole batch.

    Args:
        augmentation: Takes and returns images, ``(batch, channels, height, width)``, or one of them if torchvision's.
        images: uint8 (batch, channels, height, width).

    Returns:
        Pixels from 0 to 255, of the same shape: uint8, or float32 where the augmentation gave floats from 0 to 1.

    Raises:
        TypeError: If it gives back something else than a tensor.
        ValueError: If it cannot work on tensors, or gives images of another type, range, size or number.

    Example:
        >>> from torchvision.transforms import v2
        >>> to_float = v2.ToDtype(torch.float32, scale=True)
        >>> augmented(to_float, torch.full((2, 1, 4, 4), 255, dtype=torch.uint8)).unique()
        tensor([255.])
    """
    name = _name(augmentation)
    changed = _checked(_applied(augmentation, images), name)
    if changed.shape != images.shape:
        raise ValueError(
            f"augmentation={name} made {_shape(changed)} of {_shape(images)}, but images must keep number, channels "
            f"and size; give it an output of {images.shape[-2]} by {images.shape[-1]} pixels, or set the data module's "
            "image_size or resize."
        )
    if changed.dtype == torch.uint8:
        return changed
    if not changed.is_floating_point():
        raise ValueError(
            f"augmentation={name} returned {changed.dtype}; give uint8 from 0 to 255, or floats from 0 to 1."
        )
    low, high = torch.stack(changed.aminmax()).tolist()  # a GPU is waited for once
    if not (low >= -OVERSHOOT and high <= 1 + OVERSHOOT):
        raise ValueError(
            f"augmentation={name} returned floats from {low:.3g} to {high:.3g}; give uint8 from 0 to 255, or floats "
            "from 0 to 1: the data module normalizes after it."
        )
    return changed.to(torch.float32) * 255


def _applied(augmentation: Any, images: Tensor) -> Any:
    if _takes_single_images(augmentation):
        return _image_by_image(augmentation, images)
    if _is_sequence(augmentation):
        for part in _children(augmentation):
            images = _applied(part, images)
        return images
    return augmentation(images)


def _image_by_image(transform: Callable[[Tensor], Any], images: Tensor) -> Tensor:
    name = _name(transform)
    results: list[Tensor] = []
    for image in images:
        try:
            result = transform(image)
        except torch.OutOfMemoryError:
            raise
        except (TypeError, ValueError, RuntimeError) as error:
            raise ValueError(
                f"augmentation={name} fails on a {image.dtype} tensor (channels, height, width) of shape "
                f"{_shape(image)}: {first_line(error)}; give a transform of torchvision.transforms.v2 that takes it, "
                "after ToDtype(torch.float32, scale=True) where it asks for floats."
            ) from error
        result = _checked(result, name)
        if results and result.shape != results[0].shape:
            raise ValueError(
                f"augmentation={name} gives images of different sizes, {_shape(results[0])} and {_shape(result)}; end "
                f"it with a crop or resize to {tuple(images.shape[-2:])}."
            )
        results.append(result)
    return torch.stack(results)


def _checked(result: Any, name: str) -> Tensor:
    """What came back, if it is a tensor."""
    if not isinstance(result, Tensor):
        raise TypeError(
            f"augmentation={name} returned a {type(result).__name__}; give one that returns a tensor of the images it "
            "was given."
        )
    return result


def _takes_single_images(augmentation: Any) -> bool:
    """Whether it is a transform of torchvision, or a sequence of nothing else."""
    if _is_sequence(augmentation):
        return all(_takes_single_images(part) for part in _children(augmentation))
    return bool(_torchvision_names(augmentation))


def _is_sequence(augmentation: Any) -> bool:
    return isinstance(augmentation, nn.Sequential) or "Compose" in _torchvision_names(augmentation)


def _children(transform: Any) -> list[Any]:
    children = getattr(transform, "transforms", None)
    if not isinstance(children, list | tuple | nn.ModuleList):
        children = None
    if children is None and isinstance(transform, nn.Module):
        children = transform.children()
    return list(children or ())


def transform_parts(transform: Any) -> Iterator[Any]:
    """Go through a transform and all that it is made of.

    Args:
        transform: torchvision's or any other; None has no parts.

    Yields:
        The transform, then its parts, and theirs.
    """
    if transform is None:
        return
    yield transform
    for child in _children(transform):
        yield from transform_parts(child)


def _torchvision_names(transform: Any) -> set[str]:
    """The names of a transform's classes that are torchvision's."""
    names: set[str] = set()
    for kind in type(transform).__mro__:
        if kind.__module__.startswith("torchvision.transforms"):
            names.add(kind.__name__)
    return names


def _name(augmentation: Any) -> str:
    return getattr(augmentation, "__name__", type(augmentation).__name__)


def _shape(images: Tensor) -> str:
    return " x ".join(map(str, images.shape))
