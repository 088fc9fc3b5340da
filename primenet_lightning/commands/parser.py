"""The parser of every command: what is wrong is one sentence, and no option is guessed from its beginning."""

import sys
from typing import Any, NoReturn

from jsonargparse import ArgumentParser

from primenet_lightning.commands.mistakes import sentence


class CommandParser(ArgumentParser):
    """A parser that says in one sentence what is wrong, and where to read on.

    Args:
        **kwargs: Of jsonargparse's ``ArgumentParser``.

    Example:
        >>> parser = CommandParser(prog="primenet report")
        >>> _ = parser.add_argument("run", type=str)
        >>> parser.parse_args(["mine"]).run
        'mine'
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print the sentence, and leave with status 2.

        Args:
            message: The parser's own words.
            ex: What was raised.
        """
        if not self.exit_on_error:
            super().error(message, ex)
        parser: Any = getattr(ex, "subcommand_parser", None) or self
        name = parser.prog.replace(" [options]", "")
        print(f"primenet: error: {sentence(message, parser)}\nsee: {name} --help", file=sys.stderr)
        sys.exit(2)
