"""Options as they stand on a command line, before any parser has seen it."""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from primenet_lightning.checksums import mention_change, read_text
from primenet_lightning.class_paths import refuse_others


class GivenOption(NamedTuple):
    """An option as it stands on the command line.

    Attributes:
        name: With its dashes.
        value: What it is given.
        start: Place of the argument that names it.
        end: Place of the first argument after it.
    """

    name: str
    value: str
    start: int
    end: int


def given_options(args: Sequence[str]) -> Iterator[GivenOption]:
    """Find the options of a command line, as ``--option value`` or ``--option=value``.

    Args:
        args: The command line.

    Yields:
        Those that have a value, in order.
    """
    for start, argument in enumerate(args):
        name, equals, value = argument.partition("=")
        if not (name.startswith("--") or name == "-c"):
            continue
        if equals:
            yield GivenOption(name, value, start, start + 1)
        elif start + 1 < len(args):
            yield GivenOption(name, args[start + 1], start, start + 2)


def given_option(name: str, args: Sequence[str]) -> GivenOption | None:
    """Find one option of a command line.

    Args:
        name: With its dashes.
        args: The command line.

    Returns:
        The first of that name that has a value; None where there is none.

    Example:
        >>> given_option("--run", ["fit", "--run", "runs/first", "--figures=false"])
        GivenOption(name='--run', value='runs/first', start=1, end=3)
    """
    for option in given_options(args):
        if option.name == name:
            return option
    return None


def yaml_value(text: str) -> Any:
    """Read a value as YAML.

    Args:
        text: As it stands on the command line.

    Returns:
        What YAML makes of it; the text itself where that is no YAML.

    Example:
        >>> yaml_value("3"), yaml_value("{depth: 2}"), yaml_value("[3")
        (3, {'depth': 2}, '[3')
    """
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # the parser will have its own words for it
        return text


def yaml_content(text: str) -> Any:
    """Read the YAML file that a value names, or the value itself where it names none.

    Args:
        text: As it stands on the command line, after ``--config`` or an option that takes a class.

    Returns:
        What YAML makes of it; the text itself where that is no YAML.
    """
    try:
        if Path(text).expanduser().is_file():
            text = Path(text).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError):  # as above; a long text is no name of a file
        return yaml_value(text)
    return yaml_value(text)


def given_arguments(option: str, args: Sequence[str]) -> dict[str, Any]:
    """Find the arguments of a class that the user gave, on the command line or in YAML files.

    Args:
        option: Of the class: ``"model"`` or ``"data"``.
        args: The command line.

    Returns:
        By the argument's name the value that was given last.

    Example:
        >>> given_arguments("data", ["fit", "--data", "{class_path: A, init_args: {seed: 1}}", "--data.seed=2"])
        {'seed': 2}
    """
    given: dict[str, Any] = {}
    for one in given_options(args):
        if one.name.startswith(f"--{option}."):
            argument = one.name.removeprefix(f"--{option}.").removeprefix("init_args.")
            given[argument] = yaml_value(one.value)
        elif one.name in ("-c", "--config", f"--{option}"):
            described = yaml_content(one.value)
            if one.name != f"--{option}" and isinstance(described, Mapping):
                described = described.get(option)
            given |= arguments_of(described)
    return given


def check_files(args: Sequence[str]) -> None:
    """Warn of files of ``--config`` that a run wrote, and that somebody has changed since.

    Args:
        args: The command line.

    Raises:
        ValueError: If one names classes of others, where none but this package's own are allowed.
    """
    for option in given_options(args):
        path = Path(option.value).expanduser()
        if option.name not in ("-c", "--config") or "\n" in option.value or not path.is_file():
            continue
        text = read_text(path, "mend it, or give another")
        mention_change(path, text)
        refuse_others(path, yaml_value(text))


def arguments_of(described: Any) -> Mapping[str, Any]:
    """Give the arguments of a class that YAML describes.

    Args:
        described: What a YAML file has under ``model`` or ``data``.

    Returns:
        The ``init_args``, or the mapping itself where it names no class; empty where it is none.

    Example:
        >>> arguments_of({"class_path": "my.Net", "init_args": {"depth": 2}}), arguments_of({"depth": 2})
        ({'depth': 2}, {'depth': 2})
    """
    if not isinstance(described, Mapping):
        return {}
    if "class_path" not in described and "init_args" not in described:
        return described
    arguments = described.get("init_args")
    return arguments if isinstance(arguments, Mapping) else {}  # for a list, say, the parser has a sentence
