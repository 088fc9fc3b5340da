"""What classes are called, and whether each has images."""

from collections import Counter
from collections.abc import Sequence

import torch
from torch import Tensor

FEW = 5
"""Names in a sentence."""


def check_class_names(class_names: Sequence[str], num_classes: int, name: str) -> None:
    """Refuse names that do not tell the classes apart.

    Args:
        class_names: In the order of the labels.
        num_classes: How many there should be.
        name: The data set.

    Raises:
        ValueError: If there are more or fewer names than classes, or one is empty, no text, or there twice.

    Example:
        >>> check_class_names(("cat", "dog"), 3, "pets")
        Traceback (most recent call last):
        ...
        ValueError: class_names of pets has 2 names for num_classes=3; give one name for each class
    """
    if isinstance(class_names, str):
        raise ValueError(f"class_names={class_names!r} of {name} is one text; give a tuple with a name for each class")
    if len(class_names) != num_classes:
        raise ValueError(
            f"class_names of {name} has {len(class_names)} names for num_classes={num_classes}; give one name for each "
            "class"
        )
    for label, given in enumerate(class_names):
        if not isinstance(given, str) or not given.strip():
            raise ValueError(f"class_names of {name} has {given!r} for class {label}; give each class a name")
    common, count = Counter(class_names).most_common(1)[0] if class_names else ("", 0)
    if count > 1:
        raise ValueError(f"class_names of {name} has {common!r} {count} times; give each class a name of its own")


def classes_without_image(labels: Tensor, num_classes: int) -> list[int]:
    """List the classes that no label names.

    Args:
        labels: Class indices, int64 (images,).
        num_classes: How many classes there are.

    Returns:
        Their labels, ascending.
    """
    return (torch.bincount(labels, minlength=num_classes) == 0).nonzero().flatten().tolist()


def require_every_class(labels: Tensor, class_names: Sequence[str], split: str, name: str, remedy: str) -> None:
    """Refuse a split in which a class has no image.

    Args:
        labels: Of the split, int64 (images,).
        class_names: In the order of the labels.
        split: What the split is called.
        name: The data set.
        remedy: What to do about it.

    Raises:
        ValueError: If a class has none.
    """
    missing = classes_without_image(labels, len(class_names))
    if missing:
        raise ValueError(
            f"The {split} split of {name} has no image of class {_listed(missing, class_names)}; {remedy}."
        )


def refuse_empty_classes(labels: Tensor, class_names: Sequence[str], name: str) -> None:
    """Refuse training images that leave out a class altogether, so that no split could have it.

    Args:
        labels: Of all training images, int64 (images,).
        class_names: In the order of the labels.
        name: The data set.

    Raises:
        ValueError: If a class has no image.
    """
    missing = classes_without_image(labels, len(class_names))
    if not missing:
        return
    remedy = "add images of it, or leave the class out"
    if missing[0] == 0 and len(missing) < len(class_names):
        remedy += " (labels count from 0: the first class has label 0)"
    raise ValueError(f"{name} has no training image at all of class {_listed(missing, class_names)}; {remedy}.")


def _listed(labels: Sequence[int], class_names: Sequence[str]) -> str:
    names = ", ".join(repr(class_names[label]) for label in labels[:FEW])
    if len(labels) > FEW:
        names += f", ... ({len(labels)} classes)"
    return names
