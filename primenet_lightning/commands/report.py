"""``primenet report``: one self-contained page from a run folder."""

from collections.abc import Sequence

from primenet_lightning.commands.parser import CommandParser
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.report import write_report


def main(args: Sequence[str]) -> int:
    """Run the command.

    Args:
        args: Command line after ``report``.

    Returns:
        0.
    """
    parser = CommandParser(prog="primenet report", description="Write report.html into a run folder.")
    parser.add_argument("run", type=str, help="Run folder.")
    options = parser.parse_args(list(args))
    print(write_report(RunFolder(options.run)))
    return 0
