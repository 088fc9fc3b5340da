"""Import paths in files of others: what opening a file would import, and how to allow none but this package's own."""

import importlib.util
import os
import re
from collections.abc import Iterator, Mapping
from typing import Any

VARIABLE = "PRIMENET_ONLY_OWN_CLASSES"
"""Environment variable: with 1, files may name no classes but those of `OWN`."""

OWN = ("primenet_lightning.", "torch.optim.", "lightning.pytorch.")
"""How the paths begin of what comes with this package and what it is built on."""

INSTANTIATORS = ("lightning.pytorch.cli.instantiate_module",)
"""What a checkpoint may have Lightning call to make its model."""

PATH = re.compile(r"[A-Za-z_]\w*(\.[A-Za-z_]\w*)+")


def only_own() -> bool:
    """Whether the environment allows none but this package's own classes."""
    return os.environ.get(VARIABLE, "0") not in ("", "0", "false")


def import_paths(values: Any) -> Iterator[str]:
    """Find what could be imported by the options in a file.

    Args:
        values: Options, mappings and lists of such.

    Yields:
        Texts that are paths of something in a package that Python can find; nothing is imported.

    Example:
        >>> options = {"optimizer": {"class_path": "torch.optim.SGD"}, "at": ["layer1.conv"], "x": "os.system"}
        >>> list(import_paths(options))
        ['torch.optim.SGD', 'os.system']
    """
    if isinstance(values, Mapping):
        for value in values.values():
            yield from import_paths(value)
    elif isinstance(values, list | tuple):
        for value in values:
            yield from import_paths(value)
    elif isinstance(values, str) and PATH.fullmatch(values) and _can_be_found(values.partition(".")[0]):
        yield values


def _can_be_found(package: str) -> bool:
    try:
        return importlib.util.find_spec(package) is not None
    except (ImportError, ValueError):
        return False


def refuse_others(path: Any, values: Any, only: bool = False) -> None:
    """Refuse a file that names classes of others, where none but this package's own are allowed.

    Args:
        path: Of the file, for the sentence.
        values: What it says.
        only: Whether that is so also where the environment variable ``PRIMENET_ONLY_OWN_CLASSES`` does not say it.

    Raises:
        ValueError: For the first class of others; nothing of it has been imported.

    Example:
        >>> refuse_others("it.ckpt", {"class_path": "torch.optim.SGD"}, only=True)
    """
    if not (only or only_own()):
        return
    for name in import_paths(values):
        if not name.startswith(OWN):
            raise ValueError(
                f"{path} names {name}, which is none of this package's own classes; leave out own_classes_only and "
                f"{VARIABLE} where you trust it"
            )


def refuse_instantiator(path: Any, options: Any) -> None:
    """Refuse a checkpoint that would have Lightning call something to make its model.

    Args:
        path: Of the checkpoint, for the sentence.
        options: Its ``hyper_parameters``.

    Raises:
        ValueError: If that is not what Lightning's own command line writes there.
    """
    maker = options.get("_instantiator") if isinstance(options, Mapping) else None
    if maker is not None and maker not in INSTANTIATORS:
        raise ValueError(f"{path} wants {maker} called as it is opened, which no checkpoint needs; do not trust it")
