"""The command ``primenet``: a table of commands, each imported when it is called."""

import difflib
import logging
import os
import re
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import NamedTuple

from primenet_lightning import __version__
from primenet_lightning.arguments import first_line
from primenet_lightning.freed_memory import keep_freed_memory


class Command(NamedTuple):
    """A command.

    Attributes:
        path: Of its function, from arguments to an exit status.
        purpose: What it does, in one line.
    """

    path: str
    purpose: str


TRAINING = "primenet_lightning.commands.fit.main"
"""The function of LightningCLI's commands, whose arguments begin with their name."""

COMMANDS = {
    "fit": Command(TRAINING, "Train a network in a run folder, and test its best weights once."),
    "validate": Command(TRAINING, "Validate a trained network again."),
    "test": Command(TRAINING, "Test a trained network again."),
    "predict": Command("primenet_lightning.commands.predict.main", "Classify image files with a trained network."),
    "export": Command("primenet_lightning.commands.export.main", "Write a trained network for use without Lightning."),
    "report": Command("primenet_lightning.commands.report.main", "Write report.html of a run folder anew."),
    "card": Command("primenet_lightning.commands.card.main", "Write the model card of a run."),
    "probe": Command("primenet_lightning.commands.probe.main", "Fit a linear classifier on a network's features."),
    "reproduce": Command("primenet_lightning.commands.reproduce.reproduce", "Measure what the PrimeNet paper claims."),
    "demo": Command("primenet_lightning.commands.demo.main", "Serve a page that shows what a network sees."),
    "dashboard": Command("primenet_lightning.commands.dashboard.main", "Make a W&B workspace for the runs."),
}

FALSE_ALARMS = (
    ".*treespec, LeafSpec.*",  # between Lightning and torch
    ".*smaller than the logging interval.*",  # the loss curves get a point at the end of each epoch anyway
    ".*does not have many workers.*",  # whole batches in memory need none
    ".*callbacks used to create the checkpoint.*",  # to test a checkpoint takes none of them
    "Checkpoint directory .* exists and is not empty.*",  # a resumed run's is not
)


NO_NEWS = (
    ".*Tip: ",  # advertisements of other products
    "GPU available: False",  # a GPU that is there and not used is told
    "TPU available: False",
    "`Trainer.fit` stopped: `max_epochs=",
    "Restoring states from the checkpoint",
    "Loaded model weights from the checkpoint",
)
"""What Lightning's messages begin with that the command does not pass on."""

LOST_PROCESS = "gloo.*(by peer|Broken pipe)|Connection (closed|reset) by peer|remote process exit"
"""What gloo and NCCL say when the process at the other end is gone."""


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command line without the program's name; None takes the process's.

    Returns:
        The exit status: 0; 1 if something that this package checks was wrong, told in one sentence; 2 if there is no
        such command.
    """
    if args is None:  # the process is this command's own
        keep_freed_memory()
        args = sys.argv[1:]
    args = [with_home(argument) for argument in args]
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())  # for classes of the user's own; last, so that they hide nothing installed
    failed = True
    try:
        status = _run(args)
        failed = False
        return status
    except Exception as error:
        sentence = _sentence(error)
        if sentence is None:
            raise
        print(f"primenet: error: {sentence}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside the fit, which has an answer of its own
        print("primenet: stopped", file=sys.stderr)
        return 130
    finally:
        _finish_wandb(int(failed))


def _finish_wandb(exit_code: int) -> None:
    """Let W&B write what it has; its module is loaded if it was used."""
    if "wandb" in sys.modules:
        from primenet_lightning.commands.wandb_process import finish_wandb

        finish_wandb(exit_code)


def _run(args: Sequence[str]) -> int:
    name = args[0] if args else "--help"
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name in ("-V", "--version"):
        print(f"primenet {__version__}")
        return 0
    if name not in COMMANDS:
        print(f"primenet: error: {_unknown(name)}", file=sys.stderr)
        return 2
    function = _function(COMMANDS[name].path)
    with warnings.catch_warnings(), without_advertisements():
        for message in FALSE_ALARMS:
            warnings.filterwarnings("ignore", message)
        if COMMANDS[name].path == TRAINING:
            return function(args)
        return function(args[1:])


def with_home(argument: str) -> str:
    """Write out the home folder where no shell has: in ``--run=~/mine``, or within quotes.

    Args:
        argument: Of a command line.

    Returns:
        The same; a path that begins with ``~`` written out.

    Example:
        >>> with_home("--run=mine"), with_home("--run=~/mine") == f"--run={os.path.expanduser('~/mine')}"
        ('--run=mine', True)
    """
    name, equals, value = argument.partition("=")
    if name.startswith("-") and equals:
        return f"{name}={with_home(value)}"
    if argument.startswith("~") and "/" in argument:
        return os.path.expanduser(argument)
    return argument


@contextmanager
def without_advertisements() -> Iterator[None]:
    """Keep from the terminal what Lightning tells that is no news."""
    logger = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    logger.addFilter(_is_news)
    try:
        yield
    finally:
        logger.removeFilter(_is_news)


def _is_news(record: logging.LogRecord) -> bool:
    message = record.getMessage()
    return not any(re.match(pattern, message) for pattern in NO_NEWS)


def _help() -> str:
    lines = ["usage: primenet COMMAND [options]", ""]
    for name, command in COMMANDS.items():
        lines.append(f"  {name:10} {command.purpose}")
    return "\n".join([*lines, "", "primenet COMMAND --help has the options; primenet --version the version."])


def _unknown(name: str) -> str:
    """What is wrong with a first word that is no command."""
    if name.startswith("-"):
        return f"{name} stands before the command, which comes first, as in: primenet fit {name} ..."
    sentence = f"{name!r} is no command"
    for command in difflib.get_close_matches(name, COMMANDS, n=1):
        return f"{sentence}; did you mean primenet {command}?"
    return f"{sentence}; use one of {', '.join(COMMANDS)}"


def _function(path: str) -> Callable[[Sequence[str]], int]:
    module, _, name = path.rpartition(".")
    function: Callable[[Sequence[str]], int] = getattr(import_module(module), name)
    return function


def _sentence(error: BaseException) -> str | None:
    """What a check of this package has to say, which then is all there is to say; None keeps the traceback."""
    if isinstance(error, ImportError) and "failed to map segment" in str(error):
        return (
            f"there is not enough memory to load a library ({first_line(error)}); raise the limit (ulimit -v), or end "
            "what else needs memory"
        )
    if _is_of_memory(error):
        return (
            f"there is not enough memory ({first_line(error)}); use less: --model.backward=learner gives the same "
            "numbers with less, and a new run may have a smaller --data.batch_size"
        )
    if _is_of_lost_process(error):
        return (
            "another process of this training has ended, and with it all others; what it said last tells why, and the "
            "run goes on from its last checkpoint with --resume"
        )
    if isinstance(error, RuntimeError) and str(error).startswith("DataLoader worker"):
        return (
            f"a process that reads the data has ended ({first_line(error)}); if there was not enough memory, use fewer "
            "workers; the run goes on from its last checkpoint with --resume"
        )
    cause: BaseException | None = error
    while cause is not None:
        if _is_ours(cause):
            return str(cause)
        cause = cause.__cause__  # the parser wraps what a constructor raises
    return None


def _is_of_memory(error: BaseException) -> bool:
    """Whether Python, or torch on the CPU or on a GPU, could not get memory."""
    if isinstance(error, MemoryError):
        return True
    torch = sys.modules.get("torch")
    if torch is None or not isinstance(error, RuntimeError):
        return False
    return isinstance(error, torch.cuda.OutOfMemoryError) or "DefaultCPUAllocator: " in str(error)


def _is_of_lost_process(error: BaseException) -> bool:
    """Whether a message between processes did not arrive, since one of them has ended."""
    return isinstance(error, RuntimeError) and re.search(LOST_PROCESS, str(error)) is not None


def _is_ours(error: BaseException) -> bool:
    """Whether a check of this package raised an error."""
    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    checks: tuple[type[Exception], ...] = (ValueError, TypeError, OSError)  # torch's in one of our lines is another
    numbers = sys.modules.get("primenet_lightning.nn.numbers")  # which loads torch, and not every command needs it
    if numbers is not None:
        checks = (*checks, numbers.NonFiniteError)
    return module.startswith("primenet_lightning.") and isinstance(error, checks)


if __name__ == "__main__":
    sys.exit(main())
