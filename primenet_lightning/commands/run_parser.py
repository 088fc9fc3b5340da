"""The parser of ``fit``, ``validate`` and ``test``, and what it takes that would not be followed."""

from collections.abc import Sequence
from typing import Any

from lightning.pytorch.cli import LightningArgumentParser

from primenet_lightning.commands.command_line import given_arguments, given_option
from primenet_lightning.commands.parser import CommandParser

RUN_GROUP = "the run"
"""Title of the options that are the command's own."""

FIRST = ("options", RUN_GROUP)
"""Titles of the groups that help shows first."""

FROM_DATA = ("in_channels", "image_size", "num_classes")
"""Arguments of a model that the data module says."""

FIT_ONLY = ("--resume", "--figures", "--figure_format", "--every_n_train_steps")
"""Options that validate and test take from a run's ``config.yaml``, where they say how it was trained."""


class RunParser(CommandParser, LightningArgumentParser):
    """A parser that shows the run's own options first."""

    def format_help(self, *args: Any) -> str:
        """Put what belongs to the run first, and the Trainer's many options last.

        Args:
            *args: Of jsonargparse's ``format_help``.

        Returns:
            The text.
        """
        self._action_groups = sorted(self._action_groups, key=_rank)
        self.usage = f"{self.prog.replace(' [options]', '')} [options]"
        return super().format_help(*args)


def _rank(group: Any) -> int:
    """Place of a group of options in the help."""
    if group.title in FIRST:
        return FIRST.index(group.title)
    if any(action.dest.startswith("trainer") for action in group._group_actions):
        return len(FIRST) + 1
    return len(FIRST)


def refuse_unfollowed(args: Sequence[str]) -> None:
    """Refuse options that the parser would take and nobody follow.

    Args:
        args: Command line without the program's name, the run's own options included.

    Raises:
        ValueError: For the first.

    Example:
        >>> refuse_unfollowed(["fit", "--model.num_classes=5"])
        Traceback (most recent call last):
        ...
        ValueError: model.num_classes=5 is the data module's to say; leave it out
    """
    given = given_arguments("model", args)
    for name in FROM_DATA:
        if given.get(name) is not None:
            raise ValueError(f"model.{name}={given[name]} is the data module's to say; leave it out")
    if args[:1] == ["fit"]:
        if given_option("--resume", args) and given_option("--weights_only", args):
            raise ValueError("weights_only belongs to --ckpt_path; leave it out where a run is resumed")
        return
    for name in FIT_ONLY:
        option = given_option(name, args)
        if option is not None:
            raise ValueError(f"{name}={option.value} is an option of primenet fit; leave it out of primenet {args[0]}")
