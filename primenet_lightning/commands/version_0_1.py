"""Options by their names of version 0.1: refused where a user writes them, translated where a run of then has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from primenet_lightning.commands.command_line import given_options
from primenet_lightning.training.version_0_1 import refuse_renamed, translated_options

PREFIXES = ("--model.init_args.", "--model.")
"""What the options of a model begin with on the command line."""


def refuse_old_words(args: Sequence[str]) -> None:
    """Refuse options of a model by their names of version 0.1, on the command line and in its YAML files.

    Args:
        args: Command line without the program's name.

    Raises:
        ValueError: For the first; the sentence has the new name.

    Example:
        >>> refuse_old_words(["fit", "--model.backward=block"])
        Traceback (most recent call last):
        ...
        ValueError: backward='block' is of version 0.1; use backward='stage'
    """
    for option in given_options(args):
        value = _parsed(option.value)
        if option.name == "--config" and Path(option.value).is_file():
            config = _parsed(Path(option.value).read_text(encoding="utf-8"))
            if isinstance(config, Mapping):
                refuse_renamed(model_options(config.get("model")))
        elif option.name == "--model":
            refuse_renamed(model_options(value))
        for prefix in PREFIXES:
            if option.name.startswith(prefix):
                refuse_renamed({option.name.removeprefix(prefix): value})


def _parsed(text: str) -> Any:
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:  # the parser will have its own words for it
        return text


def model_options(model: Any) -> Mapping[str, Any]:
    """Give the options of a model.

    Args:
        model: What a YAML file has under ``model``.

    Returns:
        The ``init_args``, or the mapping itself where it names no class; empty where it is none.

    Example:
        >>> model_options({"class_path": "my.Net", "init_args": {"depth": 2}}), model_options({"depth": 2})
        ({'depth': 2}, {'depth': 2})
    """
    if not isinstance(model, Mapping):
        return {}
    if "class_path" in model or "init_args" in model:
        return model.get("init_args") or {}
    return model


def in_todays_words(options: Mapping[str, Any]) -> dict[str, Any]:
    """Say the options of a run of version 0.1 in today's words.

    Args:
        options: Of a ``config.yaml``.

    Returns:
        Today's; those of a run of today as they are.

    Example:
        >>> in_todays_words({"model": {"class_path": "my.Net", "init_args": {"overlap": True}}})
        {'model': {'class_path': 'my.Net', 'init_args': {'exchange': 'stage'}}}
    """
    model = options.get("model")
    if not isinstance(model, Mapping):
        return dict(options)
    translated = translated_options(model_options(model))
    if "class_path" in model or "init_args" in model:
        return {**options, "model": {**model, "init_args": translated}}
    return {**options, "model": translated}
