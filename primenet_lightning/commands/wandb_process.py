"""W&B in this process: whether it is there, whether there is an account, and its end."""

import os
import sys

from primenet_lightning.files import without_stopping


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


def finish_wandb(exit_code: int = 0) -> None:
    """Let W&B write what it has, if it was used.

    Args:
        exit_code: What W&B is to show as the run's status; 0 is success.
    """
    wandb = sys.modules.get("wandb")
    if wandb is not None:
        with without_stopping("finishing with W&B"):
            wandb.finish(exit_code=exit_code)
