"""``primenet fit``, ``validate`` and ``test``: LightningCLI around run folders."""

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import ActionConfigFile  # type: ignore[attr-defined]  # it is public, though not in __all__
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI

from primenet_lightning.callbacks import CostSummary, GracefulStop, LastCheckpoint
from primenet_lightning.checksums import with_first_line
from primenet_lightning.commands.attached import looking, progress_bar, timer
from primenet_lightning.commands.command_line import check_files, given_arguments
from primenet_lightning.commands.keeping import KeepConfig
from primenet_lightning.commands.loggers import BeginRun, RunLoggers
from primenet_lightning.commands.main import COMMANDS
from primenet_lightning.commands.own_defaults import classes_first, own_defaults
from primenet_lightning.commands.resumption import (
    RUN_VARIABLE,
    batches_done,
    existing_checkpoint,
    has_begun,
    new_run,
    refuse_strategy_without_results,
    saved_options,
    with_run_config,
)
from primenet_lightning.commands.run_parser import FROM_DATA, RUN_GROUP, RunParser, refuse_unfollowed
from primenet_lightning.commands.short_names import SHORT_NAMES, SIZES, with_full_names
from primenet_lightning.commands.summing_up import epoch_of, sum_up, summary_of
from primenet_lightning.commands.trainer_options import refuse_trainer_options, refused_by_trainer
from primenet_lightning.commands.version_0_1 import refuse_old_words
from primenet_lightning.commands.wandb_process import finish_wandb
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.datamodules.options import check_seed
from primenet_lightning.figures.style import FigureFormat
from primenet_lightning.files import write_whole
from primenet_lightning.nn.deferring import deferring
from primenet_lightning.nn.first_weights import weights_follow
from primenet_lightning.pipeline.strategy import is_pipeline
from primenet_lightning.runs.folder import RunFolder
from primenet_lightning.runs.lock import alone_in, refuse_trained
from primenet_lightning.training.checkpoints import AtomicCheckpointIO, BestCheckpoint
from primenet_lightning.training.fitting import Fitted, NothingChosen, fit_and_test
from primenet_lightning.training.learner import LocalLearner
from primenet_lightning.training.refusals import refuse_architecture, refuse_classes

MODEL = LocalLearner
"""What can be trained: this class and its subclasses, by class path."""

MORE_HELP = f"""
Arguments of the model are written as --model.depth 2, of the data as --data.batch_size 50; --model.help [MODEL] and
--data.help [DATA] tell them. MODEL and DATA are classes by import path, or one of
{", ".join([*SHORT_NAMES["model"], *SIZES])}, and {", ".join(SHORT_NAMES["data"])}.
"""
"""Above the command's own options."""

DEFAULT_MODEL = "primenet_lightning.PrimeNet"
DEFAULT_DATA = "primenet_lightning.datamodules.DigitsDataModule"


class PrimeNetCLI(LightningCLI):
    """LightningCLI around run folders.

    Every option of the model, of the data modules and of the Trainer comes from YAML and flags, subclasses
    by class path. ``fit`` makes a run folder, trains, tests the best checkpoint once and sums up.
    """

    model: Any
    datamodule: ImageDataModule
    run: RunFolder
    subcommand: str

    # -- options -------------------------------------------------------------------------------------------------------

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed; not ``true`` for a random one, since the data's seed is linked to it."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, splits and order.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of runs, the defaults, and the links from data to model."""
        group = parser.add_argument_group(RUN_GROUP, MORE_HELP)
        group.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="Run folder: of fit, the new one (default: runs/DATA-SIZE-TIME); of validate and test, the "
            "one to look at: its options and its best checkpoint.",
        )
        group.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Run folder to go on with (fit only), options included.",
        )
        group.add_argument(
            "--figures",
            type=bool,
            default=True,
            help="Whether to look at routing, features, maps and errors beside the losses (fit only).",
        )
        group.add_argument(
            "--figure_format",
            type=FigureFormat,
            default="png",
            help="Kind of the figures' files; pdf comes with png beside it (fit only).",
        )
        group.add_argument(
            "--every_n_train_steps",
            type=int,
            default=100,
            help="Optimizer steps between two checkpoints: as many a crash can cost (fit only).",
        )
        parser.set_defaults({"model": {"class_path": DEFAULT_MODEL}, "data": {"class_path": DEFAULT_DATA}})
        for name in FROM_DATA:
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def init_parser(self, **kwargs: Any) -> LightningArgumentParser:
        """Make a parser."""
        parser = RunParser(**kwargs)
        parser.add_argument("-c", "--config", action=ActionConfigFile, help="YAML file of options; later ones win.")
        return parser

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, after the run's own config.yaml has been put before the user's options."""
        args = sys.argv[1:] if args is None else args
        check_files(args)
        refuse_old_words(args)
        args = with_run_config(args)
        refuse_unfollowed(args)
        with own_defaults():
            self.config = parser.parse_args(with_full_names(classes_first(args)))
        check_seed(seed_everything=self.config[self.config["subcommand"]]["seed_everything"])
        seed = given_arguments("data", args).get("seed")
        if seed is not None:  # the link puts the run's seed in its place
            self.config[self.config["subcommand"]]["data"]["init_args"]["seed"] = seed

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit, validate and test; predict needs neither data nor options and has a parser of its own."""
        data = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": data, "validate": data, "test": data}

    # -- the run -------------------------------------------------------------------------------------------------------

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder; nothing is written yet.

        Raises:
            ValueError: If no network is named to validate or test, if ``fit`` is given options of the Trainer under
                which a run has no results, or if ``--resume`` is given together with another run or checkpoint.
            OSError: If nothing can be written into the run folder.
        """
        options = self.config[self.subcommand]
        self.saved: dict[str, Any] | None = None
        self.batches_done: int | None = None
        if self.subcommand != "fit":
            self.run = self._trained_run(options)
            return
        refuse_strategy_without_results(options["trainer"]["strategy"])
        refuse_trainer_options(options["trainer"])
        if options["resume"] is None:
            self.run = new_run(options, options["trainer"]["default_root_dir"])
        else:
            self._resume(options)
        if not options["trainer"]["fast_dev_run"]:
            self.run.try_writing()

    def _trained_run(self, options: Any) -> RunFolder:
        if options["run"] is None and options["ckpt_path"] is None:
            raise ValueError(
                f"primenet {self.subcommand} needs a trained network: name its run folder with --run, or "
                "a checkpoint with --ckpt_path"
            )
        return RunFolder(options["run"] or ".")

    def _resume(self, options: Any) -> None:
        if options["run"] is not None or options["ckpt_path"] is not None:
            raise ValueError(
                f"resume={options['resume']} goes on in its own folder from its own checkpoint; leave out "
                "--run and --ckpt_path"
            )
        self.run = RunFolder.existing(options["resume"])
        refuse_trained(self.run)
        self.run.check_metrics()
        if self.run.last is not None:
            self.saved = AtomicCheckpointIO().load_checkpoint(self.run.last)
            self.batches_done = batches_done(self.run, self.saved, options["trainer"])

    def instantiate_classes(self) -> None:
        """Build data, model and Trainer; in a pipeline a network has no memory until its stages are shared out."""
        is_divided = is_pipeline(self.config[self.subcommand]["trainer"]["strategy"])
        is_filled = self.subcommand != "fit" or self.saved is not None
        with deferring() if is_divided else nullcontext(), weights_follow() if is_filled else nullcontext():
            super().instantiate_classes()

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the run's loggers and callbacks, unless the user chose others."""
        options = self._get(self.config_init, "trainer")
        options["default_root_dir"] = options["default_root_dir"] or str(self.run.path)
        tags = [self.datamodule.dataset_name, str(self.model.hparams.get("size", type(self.model).__name__))]
        self.loggers = RunLoggers(self.run, tags, self.batches_done)
        if options["logger"] in (None, True):
            logs = self.subcommand == "fit" and not options["fast_dev_run"]
            options["logger"] = self.loggers.make() if logs else False
        options["callbacks"] = self._callbacks(options)
        options["max_time"] = None  # which the timer looks after: Lightning takes one timer
        with refused_by_trainer(vars(options)):
            return super().instantiate_trainer(**kwargs)

    def _callbacks(self, options: Any) -> list[Callback]:
        """The user's own callbacks, and those of the run."""
        given = options["callbacks"] or []
        callbacks = list(given) if isinstance(given, Sequence) else [given]
        callbacks += progress_bar(options["enable_progress_bar"], callbacks)
        self.best = BestCheckpoint(self.run.checkpoints)
        if self.subcommand != "fit":
            return callbacks
        figures, kind = self._get(self.config_init, "figures"), self._get(self.config_init, "figure_format")
        callbacks += looking(self.model, self.run, figures, callbacks, kind, is_pipeline(options["strategy"]))
        callbacks += [CostSummary(), timer(options["max_time"])]
        if options["enable_checkpointing"] is not False:
            last = LastCheckpoint(self.run.checkpoints, self._get(self.config_init, "every_n_train_steps"))
            callbacks += [self.best, last, GracefulStop(f"primenet fit --resume {self.run.path}")]
        return callbacks

    # -- fit -----------------------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Find what is wrong with data, options and checkpoint before anything is written, on the first process."""
        if not self.trainer.is_global_zero:
            return  # Lightning prepares the data of the others, and lets them wait for it
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        self.model.trainer = self.trainer
        self.model.check(self.trainer, "fit", self.datamodule)  # not setup, which may only run once
        self.model.configure_optimizers()
        if self.saved is not None:
            self._check_checkpoint(self.saved)

    def _check_checkpoint(self, saved: dict[str, Any]) -> None:
        refuse_classes(saved.get("data_description"), self.datamodule.description())
        self.model.network.match(saved["state_dict"], "network.")
        refuse_architecture(saved["state_dict"], self.model.state_dict())
        self.model.resumption.check(saved, self.model.hparams.get("schedule"))
        loader: Any = self.datamodule.train_dataloader()
        for state in saved["loops"]["fit_loop"]["state_dict"].get("combined_loader", []):
            loader.load_state_dict(state)  # it refuses other images, or another order

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train, from the newest checkpoint of a run that is resumed; then test the best checkpoint, once.

        Args:
            model: The model.
            **kwargs: Further arguments of ``Trainer.fit``.

        Raises:
            OSError: If another process trains this run, or has begun it.
        """
        resume_from: str | Path | None = existing_checkpoint(kwargs.get("ckpt_path"))
        weights_only = kwargs.get("weights_only")
        if self.saved is not None:
            self.saved = None  # as large as the model
            resume_from, weights_only = self.run.last, True
        self.fitted: Fitted | None = None
        with self._told_to_processes(), self._alone(), self._taken_away_if_not_begun():
            if self.trainer.is_global_zero and not self._is_tried_out:
                self._begin()
            try:
                self.fitted = fit_and_test(self.trainer, model, self.datamodule, self.best, resume_from, weights_only)
            except NothingChosen as reason:
                self.not_tested = str(reason)

    @property
    def _is_tried_out(self) -> bool:
        """Whether it is a ``fast_dev_run``, which writes nothing."""
        return bool(self.trainer.fast_dev_run)  # type: ignore[attr-defined]

    def _begin(self) -> None:
        """Write the options before anything else, or a crash would leave a folder that --resume does not know."""
        self.run.path.mkdir(parents=True, exist_ok=True)
        options = saved_options(self._parser(self.subcommand), self.config[self.subcommand])
        content = with_first_line(yaml.safe_dump(options, sort_keys=False))
        write_whole(self.run.config, content)
        self.trainer.callbacks.append(KeepConfig(self.run.config, content))  # type: ignore[attr-defined]
        self.loggers.begin(self.trainer)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from this run; since the first look at its folder one may have begun it."""
        if not self.trainer.is_global_zero or self._is_tried_out:
            yield
            return
        with alone_in(self.run):
            if self._get(self.config, "resume") is None:
                RunFolder.new(self.run.path, "")
            yield

    @contextmanager
    def _told_to_processes(self) -> Iterator[None]:
        """Tell the processes that Lightning starts in which folder they run."""
        os.environ[RUN_VARIABLE] = str(self.run.path)
        try:
            yield
        finally:
            del os.environ[RUN_VARIABLE]

    @contextmanager
    def _taken_away_if_not_begun(self) -> Iterator[None]:
        """Leave nothing where no batch was done: of a new run no folder, of one that is resumed its own options."""
        new = self.run.is_free
        options = self.run.config.read_bytes() if self.run.config.is_file() else None
        try:
            yield
        except Exception:
            if self.trainer.is_global_zero and not has_begun(self.trainer, self.batches_done):
                finish_wandb(1)  # which has files open in it
                if new:
                    self.run.remove()
                elif options is not None:
                    write_whole(self.run.config, options)
            raise

    def after_fit(self) -> None:
        """Sum up."""
        if self._is_tried_out:
            print("Tried out: nothing was written (fast_dev_run).")
            return
        if self.fitted is None:
            print(f"No test and no summary.json: {self.not_tested}.\nrun folder: {self.run.path}")
            return
        if self.trainer.is_global_zero:
            seed = self._get(self.config, "seed_everything")
            summary = summary_of(self.model, self.datamodule, self.trainer, self.fitted, seed)
            sum_up(self.run, self.trainer, summary, epoch_of(self.run.best))

    # -- validate and test ---------------------------------------------------------------------------------------------

    def validate(self, model: LightningModule, **kwargs: Any) -> None:
        """Validate the best checkpoint of a run, or the one given.

        Args:
            model: The model.
            **kwargs: Further arguments of ``Trainer.validate``.
        """
        self.trainer.validate(model, **self._with_checkpoint(kwargs))

    def test(self, model: LightningModule, **kwargs: Any) -> None:
        """Test the best checkpoint of a run, or the one given.

        Args:
            model: The model.
            **kwargs: Further arguments of ``Trainer.test``.
        """
        self.trainer.test(model, **self._with_checkpoint(kwargs))

    def _with_checkpoint(self, kwargs: dict[str, Any]) -> dict[str, Any]:
        kwargs["ckpt_path"] = existing_checkpoint(kwargs.get("ckpt_path") or self.run.best)
        if kwargs.get("weights_only") is None:
            kwargs["weights_only"] = True
        return kwargs

    def _parse_ckpt_path(self) -> None:
        """Keep a checkpoint's hyperparameters from replacing the user's options; ``--run`` brings them."""


def main(args: Sequence[str]) -> int:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        args: Command line without the program's name.

    Returns:
        0.
    """
    descriptions = {name: {"description": COMMANDS[name].purpose} for name in PrimeNetCLI.subcommands()}
    PrimeNetCLI(
        MODEL,
        ImageDataModule,
        save_config_callback=BeginRun,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={"prog": "primenet", **descriptions},
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        trainer_defaults={"max_epochs": 40, "num_sanity_val_steps": 0, "enable_model_summary": False},
        args=list(args),
    )
    return 0
