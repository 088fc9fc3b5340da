"""A class that is named takes its own defaults, not those of the class that stood there before."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import jsonargparse._typehints
from jsonargparse import Namespace
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from primenet_lightning.commands.command_line import given_options

typehints: Any = jsonargparse._typehints

OF_THEIR_OWN = (Optimizer, LRScheduler)
"""Classes whose arguments mean something else in another class: none of them is taken over."""


@contextmanager
def own_defaults() -> Iterator[None]:
    """Keep the parser from handing the defaults of one class to another class that is named in its place.

    The parser knows the arguments of the class that stood there before, among them all of its defaults, and takes those
    over whose names the new class has, too: AdamW in the place of PaperAdam would train with PaperAdam's betas. Here
    defaults are dropped; of optimizers and schedules also what was given, since a learning rate of Adam is none of SGD.

    Yields:
        Nothing.
    """
    keep_accepted = typehints.discard_init_args_on_class_path_change

    def discard(parser_or_action: Any, before: Any, now: Any) -> None:
        if isinstance(before, Namespace) and "init_args" in before and _class(before) is not _class(now):
            _discard_defaults(before)
        keep_accepted(parser_or_action, before, now)

    with patch.object(typehints, "discard_init_args_on_class_path_change", discard):
        yield


def _class(named: Any) -> Any:
    """The class itself: its path may be an old one, or a longer one."""
    return typehints.import_object(named["class_path"])


def _discard_defaults(named: Namespace) -> None:
    """Take the defaults of a class out of its arguments; of an optimizer or schedule, all arguments."""
    kind = _class(named)
    arguments = named["init_args"]
    if isinstance(kind, type) and issubclass(kind, OF_THEIR_OWN):
        for name in list(vars(arguments)):
            arguments.pop(name)
        return
    defaults = typehints.ActionTypeHint.get_class_parser(kind).get_defaults()
    for name in list(vars(arguments)):
        if arguments[name] == defaults.get(name):
            arguments.pop(name)


def classes_first(args: Sequence[str]) -> list[str]:
    """Put each class that is named before its own options, which would belong to the class before it otherwise.

    Args:
        args: The command line.

    Returns:
        The same arguments; an option ``--X CLASS`` stands right before the first ``--X.argument``.

    Example:
        >>> classes_first(["fit", "--data.batch_size", "50", "--seed_everything=1", "--data", "CIFAR10DataModule"])
        ['fit', '--data', 'CIFAR10DataModule', '--data.batch_size', '50', '--seed_everything=1']
    """
    args = list(args)
    for option in reversed(list(given_options(args))):
        start = _first_option_of(option.name, args)
        if start < option.start:
            before, between, after = args[:start], args[start : option.start], args[option.end :]
            return classes_first([*before, *args[option.start : option.end], *between, *after])
    return args


def _first_option_of(name: str, args: Sequence[str]) -> int:
    """Where the first ``--X.argument`` of an option ``--X`` stands; the end where there is none."""
    for option in given_options(args):
        if option.name.startswith(f"{name}."):
            return option.start
    return len(args)
