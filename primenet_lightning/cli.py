"""The command ``primenet``: fit, validate and test on LightningCLI, and predict from a checkpoint alone."""

import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import torch
import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.console import Console

from primenet_lightning.callbacks import CostSummary, LossProgressBar
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
from primenet_lightning.cost import count_cost
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.module import PrimeNet
from primenet_lightning.network import PrimeNetwork
from primenet_lightning.prediction import load_model, predict_files
from primenet_lightning.runs import (
    PAPER,
    PAPER_COST,
    InterruptCheckpoint,
    RunFolder,
    git_commit,
    peak_memory_bytes,
    result_table,
    versions,
)

RUN_OPTIONS = ("run", "resume")
"""Options that say where a run lies; they are no part of what it computes, nor of its config.yaml."""


class SaveRunConfig(SaveConfigCallback):
    """Save the options into the run folder, without those that name the folder."""

    def save_config(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Write ``config.yaml``, on the first rank."""
        options = yaml.safe_load(self.parser.dump(self.config, skip_none=False))
        for name in (*RUN_OPTIONS, "ckpt_path", "weights_only"):
            options.pop(name, None)
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "config.yaml").write_text(yaml.safe_dump(options, sort_keys=False))


class PrimeNetCLI(LightningCLI):
    """LightningCLI around run folders.

    Every option of `PrimeNet`, of the data modules and of the Trainer comes from YAML and flags, subclasses by class
    path. ``fit`` makes a run folder, trains, tests the best checkpoint once and sums up.
    """

    model: PrimeNet
    datamodule: ImageDataModule
    run: RunFolder

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of runs, the defaults, and the links from data to model."""
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="Run folder: of fit, the new one (default: runs/DATA-SIZE-TIME); of validate and test, the one to "
            "look at: its options and its best checkpoint.",
        )
        parser.add_argument(
            "--resume", type=str | None, default=None, help="Run folder to go on with (fit only), options included."
        )
        parser.set_defaults(
            {
                "model": {"class_path": "primenet_lightning.PrimeNet"},
                "data": {"class_path": "primenet_lightning.datamodules.DigitsDataModule"},
            }
        )
        for name in ("in_channels", "image_size", "num_classes"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed", compute_fn=int)

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, after the run's own config.yaml has been put before the user's options."""
        self.config = parser.parse_args(with_run_config(sys.argv[1:] if args is None else args))

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder; nothing is written yet."""
        options = self.config[self.subcommand]
        self.resumed = self.subcommand == "fit" and options["resume"] is not None
        if self.resumed:
            self.run = RunFolder.existing(options["resume"])
        elif self.subcommand == "fit":
            data = options["data"]["class_path"].rsplit(".", 1)[-1].removesuffix("DataModule").lower()
            size = options["model"].get("init_args", {}).get("size", "custom")
            self.run = RunFolder.new(options["run"], f"{data}-{size}")
        elif options["run"] is not None:
            self.run = RunFolder.existing(options["run"])
        elif options["ckpt_path"] is not None:
            self.run = RunFolder(Path(options["ckpt_path"]).parent.parent)
        else:
            raise ValueError(
                f"primenet {self.subcommand} needs a trained network: name its run folder with --run, or a checkpoint "
                "with --ckpt_path"
            )

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the run's loggers and callbacks, unless the user chose loggers."""
        options = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        options["default_root_dir"] = str(self.run.path)
        if options["logger"] is None:
            options["logger"] = self._loggers() if fitting and not options["fast_dev_run"] else False
        self.checkpoint = ModelCheckpoint(
            dirpath=self.run.checkpoints,
            filename="best",
            monitor="val/error",
            mode="min",
            save_last=True,
            enable_version_counter=False,
        )
        callbacks = list(options["callbacks"] or []) + [LossProgressBar()]
        if fitting:
            self.timer = Timer()
            callbacks += [CostSummary(), self.timer, InterruptCheckpoint(self.run)]
            callbacks += [] if options["enable_checkpointing"] is False else [self.checkpoint]
        options["callbacks"] = callbacks
        trainer = super().instantiate_trainer(**kwargs)
        return trainer

    def _loggers(self) -> list[Logger]:
        wandb = WandbLogger(
            project="primenet",
            name=self.run.path.name,
            id=self.run.path.name,
            save_dir=self.run.path,
            mode=wandb_mode(),  # not offline=True, which sets an environment variable that outlives the run
        )
        return [wandb, ResumableCSVLogger(self.run.path, resume=self.resumed)]

    # -- fit -----------------------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Find what is wrong with the data before a run folder is made."""
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train; from the newest checkpoint of a run that is resumed."""
        if self.resumed:
            kwargs["ckpt_path"] = self._resume_from(self.run.newest)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                self.run.path.mkdir(parents=True, exist_ok=True)
                for metric in ("val/error", "test/error"):
                    logger.experiment.define_metric(metric, summary="min")
        self.trainer.fit(model, **kwargs)

    def _resume_from(self, path: Path) -> str:
        done = torch.load(path, weights_only=True, map_location="cpu")["loops"]["fit_loop"]["epoch_progress"]
        epochs = done["current"]["completed"]
        if self.trainer.max_epochs is not None and 0 <= self.trainer.max_epochs <= epochs:
            raise ValueError(
                f"resume={self.run.path} has finished its {epochs} epochs; to train on, raise --trainer.max_epochs "
                f"above {epochs}"
            )
        return str(path)

    def after_fit(self) -> None:
        """Test the best checkpoint, once, and sum up."""
        best = self.checkpoint.best_model_path
        if not best:  # fast_dev_run, or checkpoints were turned off
            return
        validation_error = self.checkpoint.best_model_score
        assert validation_error is not None
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        summary = self._summary(float(validation_error), float(self.trainer.callback_metrics["test/error"]))
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                logger.experiment.summary.update({f"final/{name}": value for name, value in summary.items()})
        self.run.write_summary(summary)
        Console().print(result_table(summary, self.run))

    def _summary(self, validation_error: float, test_error: float) -> dict[str, Any]:
        """What ``summary.json`` holds; the network is that of the best checkpoint by now."""
        network: PrimeNetwork = self.model.network
        cost = count_cost(network)
        dataset = self.datamodule.dataset_name
        seconds = self.timer.time_elapsed("train")
        seen = self.trainer.fit_loop.epoch_progress.current.completed * len(self.datamodule.train_dataset)
        return {
            "dataset": dataset,
            "seed": self._get(self.config, "seed_everything"),
            "test_error": test_error,
            "validation_error": validation_error,
            "parameters": cost.parameters,
            "multiply_adds_inference": cost.multiply_adds_inference,
            "multiply_adds_training": cost.multiply_adds_training,
            "epochs": self.trainer.current_epoch,
            "seconds": seconds,
            "images_per_second": seen / seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "routing": [
                block.history.shares(len(block.capsules)) for block in network.prime_blocks
            ],
            "routing_mode": str(network.inference_routing),
            "versions": versions(),
            "git_commit": git_commit(),
            **({"paper": PAPER[dataset] | PAPER_COST} if dataset in PAPER else {}),
        }

    # -- validate and test -----------------------------------------------------------------------------------------------

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Validate the best checkpoint of a run, or the one given."""
        self.trainer.validate(model, **self._with_checkpoint(kwargs))

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Test the best checkpoint of a run, or the one given."""
        self.trainer.test(model, **self._with_checkpoint(kwargs))

    def _with_checkpoint(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["ckpt_path"] = kwargs.get("ckpt_path") or str(self.run.best)
        return kwargs | {"weights_only": True}

    def _parse_ckpt_path(self) -> None:
        """Do not let a checkpoint's hyperparameters replace options the user gave: ``--run`` brings them already."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit, validate and test; predict needs neither data nor options and has a parser of its own."""
        data = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": data, "validate": data, "test": data}


def wandb_mode() -> str:
    """What ``WANDB_MODE`` says; else online where there is an account to log to, and offline where there is none."""
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    import wandb

    return "online" if wandb.login(prompt=False) else "offline"


def with_run_config(args: Sequence[str]) -> list[str]:
    """Put ``--config RUN/config.yaml`` first, where ``--resume RUN``, or ``--run RUN`` of test and validate, ask for it.

    Options after it win, so a run can be resumed with more epochs.

    Args:
        args: Command line without the program's name.

    Returns:
        The arguments for the parser.

    Raises:
        FileNotFoundError: If the run does not exist.
    """
    args = list(args)
    option = "--resume" if args[:1] == ["fit"] else "--run"
    for position, argument in enumerate(args):
        if argument == option and position + 1 < len(args):
            run = args[position + 1]
        elif argument.startswith(f"{option}="):
            run = argument.partition("=")[2]
        else:
            continue
        if option == "--resume" or args[0] in ("validate", "test"):
            return [args[0], "--config", str(RunFolder.existing(run).config), *args[1:]]
    return args


def predict(args: Sequence[str]) -> int:
    """Run ``primenet predict``: one line a file, class and probability, from the checkpoint alone.

    Args:
        args: Command line after ``predict``.

    Returns:
        0, or 1 if a file could not be used.
    """
    parser = ArgumentParser(prog="primenet predict", description="Classify image files with a trained network.")
    parser.add_argument("--ckpt", type=str, required=True, help="Run folder or checkpoint file.")
    parser.add_argument("images", type=str, nargs="+", help="Image files, or folders of them.")
    options = parser.parse_args(list(args))
    failed = False
    for prediction in predict_files(load_model(options.ckpt), options.images):
        if prediction.error is None:
            print(f"{prediction.path}\t{prediction.label}\t{prediction.probability:.4f}")
        else:
            failed = True
            print(f"error: {prediction.error}", file=sys.stderr)
    return int(failed)


def main(args: Sequence[str] | None = None) -> int:
    """Run the command.

    Args:
        args: Command line without the program's name; None takes the process's.

    Returns:
        The exit status: 0, or 1 if something that this package checks was wrong, told in one sentence.
    """
    args = sys.argv[1:] if args is None else list(args)
    try:
        if args[:1] == ["predict"]:
            return predict(args[1:])
        PrimeNetCLI(
            PrimeNet,
            ImageDataModule,
            save_config_callback=SaveRunConfig,
            save_config_kwargs={"save_to_log_dir": False},
            seed_everything_default=0,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            trainer_defaults={
                "max_epochs": 60,
                "log_every_n_steps": 50,
                "num_sanity_val_steps": 0,
                "enable_model_summary": False,
            },
            args=args,
        )
    except (ValueError, RuntimeError, OSError) as error:
        if not _is_ours(error.__traceback__):
            raise
        print(f"primenet: error: {error}", file=sys.stderr)
        return 1
    return 0


def _is_ours(trace: TracebackType | None) -> bool:
    """Whether an error was raised by a check of this package, whose sentence says all; others show their traceback."""
    frames = list(traceback.walk_tb(trace))
    return bool(frames) and frames[-1][0].f_globals.get("__name__", "").startswith("primenet_lightning.")


if __name__ == "__main__":
    sys.exit(main())
