"""The command ``primenet``: a table of commands, each imported when it is called."""

import os
import sys
import warnings
from collections.abc import Callable, Sequence
from importlib import import_module

from primenet_lightning.commands.wandb_process import finish_wandb

COMMANDS = {
    "predict": "primenet_lightning.commands.predict.main",
    "report": "primenet_lightning.commands.report.main",
    "dashboard": "primenet_lightning.commands.dashboard.main",
    "probe": "primenet_lightning.commands.probe.main",
    "reproduce": "primenet_lightning.commands.reproduce.reproduce",
}
"""Commands that are not LightningCLI's, and the function of each: from the arguments after its name to an exit status.

Everything else, ``fit``, ``validate``, ``test`` and ``--help``, is `TRAINING`'s.
"""

TRAINING = "primenet_lightning.commands.fit.main"

FALSE_ALARMS = (
    ".*treespec, LeafSpec.*",  # between Lightning and torch
    ".*smaller than the logging interval.*",  # the loss curves get a point at the end of each epoch anyway
    ".*does not have many workers.*",  # whole batches in memory need none
    ".*callbacks used to create the checkpoint.*",  # to test a checkpoint takes none of them
    "Checkpoint directory .* exists and is not empty.*",  # a resumed run's is not
)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command line without the program's name; None takes the process's.

    Returns:
        The exit status: 0, or 1 if something that this package checks was wrong, told in one sentence.
    """
    args = sys.argv[1:] if args is None else list(args)
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
        finish_wandb(int(failed))


def _run(args: Sequence[str]) -> int:
    with warnings.catch_warnings():
        for message in FALSE_ALARMS:
            warnings.filterwarnings("ignore", message)
        name = args[0] if args else ""
        if name in COMMANDS:
            return _function(COMMANDS[name])(args[1:])
        return _function(TRAINING)(args)


def _function(path: str) -> Callable[[Sequence[str]], int]:
    module, _, name = path.rpartition(".")
    function: Callable[[Sequence[str]], int] = getattr(import_module(module), name)
    return function


def _sentence(error: BaseException) -> str | None:
    """What a check of this package has to say, which then is all there is to say; None keeps the traceback."""
    cause: BaseException | None = error
    while cause is not None:
        if _is_ours(cause):
            return str(cause)
        cause = cause.__cause__  # the parser wraps what a constructor raises
    return None


def _is_ours(error: BaseException) -> bool:
    """Whether a check of this package raised an error."""
    from primenet_lightning.nn.numbers import NonFiniteError  # loads torch, which not every command needs

    trace = error.__traceback__
    if trace is None:
        return False
    while trace.tb_next is not None:
        trace = trace.tb_next
    module = str(trace.tb_frame.f_globals.get("__name__", ""))
    checks = (ValueError, TypeError, OSError, NonFiniteError)  # torch's own in one of our lines is a RuntimeError
    return module.startswith("primenet_lightning.") and isinstance(error, checks)


if __name__ == "__main__":
    sys.exit(main())
