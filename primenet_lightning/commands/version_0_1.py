"""Options by their names of version 0.1: refused where a user writes them, translated where a run of then has them."""

from collections.abc import Mapping, Sequence
from typing import Any

from primenet_lightning.commands.command_line import arguments_of, given_options, yaml_content, yaml_value
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
        if option.name in ("-c", "--config"):
            config = yaml_content(option.value)
            if isinstance(config, Mapping):
                refuse_renamed(arguments_of(config.get("model")))
        elif option.name == "--model":
            refuse_renamed(arguments_of(yaml_content(option.value)))
        for prefix in PREFIXES:
            if option.name.startswith(prefix):
                refuse_renamed({option.name.removeprefix(prefix): yaml_value(option.value)})


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
    translated = translated_options(arguments_of(model))
    if "class_path" in model or "init_args" in model:
        return {**options, "model": {**model, "init_args": translated}}
    return {**options, "model": translated}
