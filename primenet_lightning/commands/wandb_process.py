"""W&B in this process: whether it is there, whether there is an account, and its end."""

import atexit
import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

from primenet_lightning.files import without_stopping

FINISH_PATIENCE = 600.0
"""Seconds that W&B may take at the end to send what is left: where its server is gone, it would wait for hours."""


def wandb_mode() -> str | None:
    """What ``WANDB_MODE`` says; else online where there is an account to log to, otherwise offline.

    Returns:
        None, after a warning, where W&B is not there.
    """
    try:
        import wandb
    except ImportError as error:
        print(f"W&B is not there ({error}), so the run is not logged to it; pip install wandb", file=sys.stderr)
        return None
    mode = os.environ.get("WANDB_MODE")
    if mode:
        return mode
    return "online" if wandb.login(prompt=False) else "offline"


def wandb_words() -> dict[str, Any]:
    """Keep W&B from its dozens of lines, and from waiting for long, unless its environment variables say otherwise.

    Returns:
        Arguments of ``wandb.init``.
    """
    import wandb

    words: dict[str, Any] = {}
    if "WANDB_SILENT" not in os.environ and "WANDB_QUIET" not in os.environ:
        words["silent"] = True
    if "finish_timeout" in wandb.Settings.model_fields:  # not in older versions, which wait for hours
        words["finish_timeout_raises"] = True
        if "WANDB_FINISH_TIMEOUT" not in os.environ:
            words["finish_timeout"] = FINISH_PATIENCE
    return {"settings": wandb.Settings(**words)}


def wandb_place(run: Any) -> str | None:
    """Say in one line where a run is to be seen, or how it gets there.

    Args:
        run: W&B's.

    Returns:
        The line; None of a run that is nowhere.

    Example:
        >>> import wandb
        >>> wandb_place(wandb.init(mode="disabled")) is None
        True
    """
    if run.disabled:
        return None
    if run.offline:
        return f"W&B: offline; send it with: wandb sync {_from_here(Path(run.dir).parent)}"
    return f"W&B: {run.url}"


def finish_wandb(exit_code: int = 0) -> None:
    """Let W&B write what it has, if it was used.

    Args:
        exit_code: What W&B is to show as the run's status; 0 is success.
    """
    wandb = sys.modules.get("wandb")
    if wandb is None:
        return
    place = _from_here(Path(wandb.run.dir).parent) if wandb.run is not None else ""
    with without_stopping("finishing with W&B"):
        try:
            wandb.finish(exit_code=exit_code)
        except TimeoutError:
            sentence = "W&B's server has not taken all of the run in time (WANDB_FINISH_TIMEOUT)"
            print(f"{sentence}; send it later with: wandb sync {place}", file=sys.stderr)


def end_wandb() -> None:
    """End W&B's service, and with it what could not begin there."""
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        with without_stopping("ending W&B's service"):
            wandb.teardown(exit_code=1)


def end_wandb_quietly_at_exit() -> None:
    """End W&B's service before W&B's own hook does, which prints a traceback where the service has died."""
    atexit.unregister(_end_quietly)
    atexit.register(_end_quietly)


def _end_quietly() -> None:
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        with suppress(Exception, SystemExit):  # what was lost has been told, and the run has its status
            wandb.teardown(exit_code=0)


def _from_here(folder: Path) -> Path:
    """A folder below the working directory as one would type it."""
    here = Path.cwd()
    return folder.relative_to(here) if folder.is_relative_to(here) else folder
