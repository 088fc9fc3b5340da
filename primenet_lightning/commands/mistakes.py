"""What is wrong on a command line, in one sentence: the option, the value, and what would do."""

import difflib
import re
import sys
from collections.abc import Iterable
from importlib import import_module
from typing import Any

from jsonargparse import ArgumentParser

from primenet_lightning.commands.short_names import SHORT_NAMES, SIZES

KINDS = {
    "<class 'int'>": "a whole number",
    "<class 'float'>": "a number",
    "<class 'bool'>": "true or false",
    "<class 'str'>": "a text",
    "<class 'list'>": "a list, as [1, 2]",
    "<class 'tuple'>": "a list, as [1, 2]",
    "<class 'dict'>": "options, as {name: value}",
}
"""What would do, by the parser's word for it."""

CLASSES_IN = (
    "torch.optim",
    "torch.optim.lr_scheduler",
    "lightning.pytorch.callbacks",
    "lightning.pytorch.loggers",
    "primenet_lightning.callbacks",
)
"""Where classes are that options name, beside models and data."""


def sentence(message: str, parser: ArgumentParser) -> str:
    r"""Say in one sentence what is wrong.

    Args:
        message: The parser's words, of up to a dozen lines.
        parser: It knows the options that there are.

    Returns:
        The sentence.

    Example:
        >>> parser = ArgumentParser()
        >>> _ = parser.add_argument("--epochs", type=int)
        >>> sentence("unrecognized arguments: --epoch 3", parser)
        '--epoch is no option; did you mean --epochs?'
        >>> sentence('Parser key "epochs":\n  Expected a <class \'int\'>. Got value: x', parser)
        '--epochs=x cannot be taken; give a whole number'
    """
    for begins, say in (
        ("unrecognized arguments: ", _unrecognized),
        ("the following arguments are required: ", _required),
        ("argument ", _without_value),
        ("Problems parsing config: ", _no_yaml),
    ):
        if message.startswith(begins):
            return say(message.removeprefix(begins), parser)
    unknown = re.search(r"does not accept option '([\w.]+)'", message)
    if unknown:
        return _no_option(f"--{unknown[1]}", parser)
    if message.startswith("Parser key "):
        return _wrong_value(message, parser)
    return " ".join(message.split())


# -- options -----------------------------------------------------------------------------------------------------------


def _unrecognized(words: str, parser: ArgumentParser) -> str:
    word = words.split()[0].partition("=")[0]
    if word.startswith("-"):
        return _no_option(word, parser)
    return f"{word!r} is one argument too many; leave it out, or name the option that it belongs to"


def _no_option(option: str, parser: ArgumentParser) -> str:
    return f"{option} is no option{_did_you_mean(option, _options(parser))}"


def _options(parser: Any) -> list[str]:
    """All options of a parser, as they are written."""
    return [name for name in parser._option_string_actions if not name.endswith("+")]


def _required(names: str, parser: ArgumentParser) -> str:
    missing: list[str] = []
    for name in names.split(", "):
        if f"--{name}" in _options(parser):
            missing.append(f"--{name} {name.upper()}")
        else:
            missing.append(name.upper())
    what = parser.prog.replace(" [options]", "")
    return f"{what} needs more; give {' and '.join(missing)}"


def _without_value(words: str, parser: ArgumentParser) -> str:
    option, _, problem = words.partition(": ")
    option = option.split("/")[-1]
    if problem.startswith("expected"):
        return f"{option} has no value; give it one, as {option} VALUE"
    return f"{option}: {' '.join(problem.split())}"


def _no_yaml(problem: str, parser: ArgumentParser) -> str:
    return f"--config is no YAML ({' '.join(problem.split())}); mend the file"


# -- values ------------------------------------------------------------------------------------------------------------


def _wrong_value(message: str, parser: ArgumentParser) -> str:
    option, value = _option_and_value(message)
    if option.partition(".")[0] not in _options(parser) and option not in _options(parser):
        option = option.removeprefix("--")  # it has no name on the command line, but a place
    unknown = re.search(r"Option '([\w.]+)' is not accepted", message)
    if unknown:
        return _no_argument(option, unknown[1], message)
    if "object has no attribute 'keys'" in message:
        return f"{option}.init_args has no names; give options, as {{name: value}}"
    missing = re.search(r"(?:File does not exist|Path is not a file): '(.*)'", message)
    if missing:
        return f"{option}={missing[1]} does not exist; give a file that is there"
    if _names_no_class(message):
        return _no_class(option, value, message)
    return f"{option}={value} cannot be taken; give {_what_would_do(message, str(value))}"


def _option_and_value(message: str) -> tuple[str, str]:
    """The option as it is written on the command line, and what it was given."""
    keys = re.findall(r'Parser key "([\w.]+)"', message)
    nested = re.search(r"NestedArg\(key='([^']*)', val='?(.*?)'?\)$", message, re.MULTILINE)
    if nested:
        return f"--{keys[0]}.{nested[1]}", nested[2]
    value = re.search(r"Got value: (.*?)(?:\. Got value|$)", message, re.MULTILINE)
    if value is None:
        value = re.search(r"Given value: (.*)$", message, re.MULTILINE)
    return f"--{'.'.join(keys)}", "" if value is None else value[1]


def _no_argument(option: str, argument: str, message: str) -> str:
    """A class was given an argument that it does not have."""
    path = _class_path(message)
    if not option.endswith(f".{argument}"):
        option = f"{option}.{argument}"
    if path is None:
        return f"{option} is no option; leave it out"
    arguments = [f"{option.removesuffix(argument)}{name}" for name in _arguments_of(path)]
    name = path.rpartition(".")[2]
    return f"{option} is no option of {name}{_did_you_mean(option, arguments)}"


def _class_path(message: str) -> str | None:
    """The class whose arguments are wrong, the innermost that is named."""
    paths = re.findall(r"class_path[ =]'([\w.]+)'", message)
    if "expects a function or a callable class" in message:
        return paths[-1] if paths else None
    return paths[0] if paths else None


def _arguments_of(path: str) -> list[str]:
    """What the constructor of a class takes, in the words of the command line."""
    module, _, name = path.rpartition(".")
    parser = ArgumentParser()
    try:
        parser.add_class_arguments(getattr(import_module(module), name), skip={0})
    except (ImportError, AttributeError, ValueError):
        parser.add_class_arguments(getattr(import_module(module), name))
    return [action.dest for action in parser._actions if action.dest not in ("help", "print_config")]


def _names_no_class(message: str) -> bool:
    signs = ("Expected a dot import path string", "No module named", "has no attribute", "correspond to a subclass")
    return any(sign in message for sign in signs)


def _no_class(option: str, value: str, message: str) -> str:
    """A class was named that there is not, or that is of another kind."""
    name = option.rpartition("--")[2]
    path = re.search(r"class_path': '([^']*)'", value)
    if path:
        value = path[1]
    known = SHORT_NAMES.get(name, {})
    names = [*known, *(path.rpartition(".")[2] for path in known.values())] or _other_classes()
    reason = re.search(r"No module named '[\w.]+'|has no attribute '\w+'", message)
    why = f" ({reason[0]})" if reason else ""
    if "correspond to a subclass" in message:
        why = " of the kind that is wanted"
    said = f"{option}={value} is no class{why}"
    if name == "model":
        from primenet_lightning.models.backbones import backbone_names  # loads torch

        names += [*SIZES, *backbone_names()]
    for close in _closest(value, names):
        return f"{said}; did you mean {close}?"
    if name == "model":
        return (
            f"{said}; use one of {', '.join(known)}, the name of a model of torchvision or timm, or the import path of "
            "your own, as module.Class"
        )
    if known:
        return f"{said}; use one of {', '.join(known)}, or the import path of your own, as module.Class"
    return f"{said}; give the import path of one, as module.Class"


def _other_classes() -> list[str]:
    """Names of optimizers, schedules, callbacks and loggers, which are classes, too."""
    names: list[str] = []
    for module in CLASSES_IN:
        if module in sys.modules:
            names += [name for name in dir(sys.modules[module]) if name[0].isupper()]
    return names


def _what_would_do(message: str, value: str) -> str:
    """What the parser expected, in plain words."""
    choices: list[str] = []
    kinds: list[str] = []
    for expected in re.findall(r"Expected an? (.*?)(?:\. Got value|$)", message, re.MULTILINE):
        if expected.startswith("typing.Literal["):
            choices += [choice.strip("' ") for choice in expected[len("typing.Literal[") : -1].split(",")]
        elif expected in KINDS and KINDS[expected] not in kinds:
            kinds.append(KINDS[expected])
    if choices:
        choices = list(dict.fromkeys(choices))
        close = _closest(value, choices)
        hint = f" (did you mean {close[0]}?)" if close else ""
        kinds.insert(0, f"one of {', '.join(choices)}{hint}")
    return " or ".join(kinds) or "another value"


# -- names -------------------------------------------------------------------------------------------------------------


def _closest(name: str, names: Iterable[str]) -> list[str]:
    """The name that is spelled most like it; none where none is near."""
    by_small_letters = {other.lower(): other for other in names}
    close = difflib.get_close_matches(name.lower(), by_small_letters, n=1, cutoff=0.7)
    return [by_small_letters[other] for other in close]


def _did_you_mean(name: str, names: Iterable[str]) -> str:
    close = _closest(name, names)
    if close:
        return f"; did you mean {close[0]}?"
    return "; leave it out"
