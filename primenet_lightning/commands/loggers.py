"""The loggers of a run: W&B, as far as it is there, and a CSV file in its folder."""

import os
import secrets
import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger

from primenet_lightning.arguments import first_line
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
from primenet_lightning.callbacks.wandb_log import PatientWandbLogger
from primenet_lightning.commands.resumption import saved_options
from primenet_lightning.commands.wandb_process import end_wandb, end_wandb_quietly_at_exit, wandb_mode, wandb_words
from primenet_lightning.runs.folder import RunFolder


class RunLoggers:
    """Makes the loggers of a run, and begins W&B's.

    Args:
        run: Where they write.
        tags: Of the run in W&B.
        resume_at: First step that is done now, see `ResumableCSVLogger`.
    """

    def __init__(self, run: RunFolder, tags: Sequence[str], resume_at: int | None) -> None:
        self.run = run
        self.tags = list(tags)
        self.resume_at = resume_at
        # W&B goes on with a resumed run; the name would not do, another folder may have it too
        self.wandb_id = run.wandb_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)

    def make(self) -> list[Logger]:
        """Make them; W&B's only where it is there."""
        mode = wandb_mode()
        loggers: list[Logger] = []
        if mode is not None:
            loggers.append(self.wandb(mode))
        loggers.append(ResumableCSVLogger(self.run.path, resume_at=self.resume_at))
        return loggers

    def wandb(self, mode: str) -> PatientWandbLogger:
        """Make W&B's logger; project, entity, name and tags are what W&B's environment variables say.

        Args:
            mode: ``"online"``, ``"offline"`` or another of W&B's.

        Returns:
            The logger; its run has not begun.
        """
        if "WANDB_DIR" in os.environ:
            print(f"WANDB_DIR is not followed: W&B's files lie in the run folder, {self.run.wandb}", file=sys.stderr)
        return PatientWandbLogger(
            project=os.environ.get("WANDB_PROJECT") or "primenet",
            name=os.environ.get("WANDB_NAME") or self.run.path.name,
            id=self.wandb_id,
            save_dir=self.run.path.absolute(),  # its own process may run elsewhere
            mode=mode,  # not offline=True, which sets an environment variable that outlives the run
            log_model=mode == "online",
            tags=[*self.tags, *filter(None, os.environ.get("WANDB_TAGS", "").split(","))],
            **wandb_words(),
        )

    def begin(self, trainer: Trainer) -> None:
        """Begin W&B's run, offline where that fails, or not at all: what fails later would stop the training.

        Args:
            trainer: Its loggers are replaced where they cannot begin.
        """
        others = [logger for logger in trainer.loggers if not isinstance(logger, PatientWandbLogger)]
        for logger in trainer.loggers:
            if isinstance(logger, PatientWandbLogger) and not _begins(logger, f"it is kept in {self._kept_in}"):
                end_wandb()  # or its service says of the second attempt that the run's id is in use
                offline = self.wandb("offline")
                begins = _begins(offline, "without")
                trainer.loggers = [offline, *others] if begins else others

    @property
    def _kept_in(self) -> str:
        return f"{self.run.wandb}: send it later with `wandb sync`"


def _begins(logger: PatientWandbLogger, remedy: str) -> bool:
    try:
        _ = logger.experiment
    except Exception as error:
        print(f"W&B cannot begin the run ({first_line(error)}); {remedy}", file=sys.stderr)
        return False
    finally:
        end_wandb_quietly_at_exit()
    return True


class BeginRun(SaveConfigCallback):
    """Save the options into W&B, and tell it which value of each curve is the best."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Tell W&B on the first rank, when a fit begins; the folder has ``config.yaml`` by then."""
        if stage != "fit":
            return
        for logger in trainer.loggers:
            if isinstance(logger, WandbLogger):
                options = saved_options(self.parser, self.config)
                logger.experiment.config.update(options, allow_val_change=True)
                for name, best in best_values(pl_module).items():
                    logger.experiment.define_metric(name, summary=best, step_metric="trainer/global_step")


def best_values(model: LightningModule) -> dict[str, Any]:
    """Tell which value of a curve W&B shall show in its tables; of others it shows the last.

    Args:
        model: To be trained.

    Returns:
        ``"min"`` or ``"max"`` by the name under which it is logged.
    """
    best = {"val/error": "min", "test/error": "min", "val/accuracy": "max", "test/accuracy": "max"}
    network: Any = model.network
    for name in network.loss_names:
        best[f"val/loss/{name}"] = "min"
        best[f"val/accuracy/{name}"] = "max"
    return best
