"""The command ``primenet``: fit, validate and test on LightningCLI, and predict from a checkpoint alone."""

import os
import secrets
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import yaml
from jsonargparse import ArgumentParser
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar, Timer
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import Logger, WandbLogger
from rich.console import Console

from primenet_lightning.analysis.cost import count_cost
from primenet_lightning.analysis.prediction import load_model, predict_files
from primenet_lightning.callbacks import (
    CapsuleLossCurves,
    ConfusionAndErrors,
    CostSummary,
    FeatureMaps,
    FeatureTSNE,
    GracefulStop,
    LastCheckpoint,
    LossProgressBar,
    RoutingMonitor,
)
from primenet_lightning.callbacks.csv_log import ResumableCSVLogger
from primenet_lightning.callbacks.wandb_log import PatientWandbLogger
from primenet_lightning.datamodules import ImageDataModule
from primenet_lightning.files import without_stopping
from primenet_lightning.models.prime import PrimeNet
from primenet_lightning.nn.numbers import NonFiniteError
from primenet_lightning.nn.prime.network import PrimeNetwork
from primenet_lightning.runs.folder import RunFolder, write_whole
from primenet_lightning.runs.summary import (
    PAPER,
    PAPER_COST,
    git_commit,
    peak_memory_bytes,
    result_rows,
    result_table,
    versions,
)
from primenet_lightning.training.checkpoints import AtomicCheckpointIO, BestCheckpoint
from primenet_lightning.training.refusals import refuse_architecture, refuse_classes

RUN_VARIABLE = "PRIMENET_RUN"
"""Environment variable that tells the processes which Lightning starts in which folder they run."""

LOOKING: tuple[Any, ...] = (CapsuleLossCurves, RoutingMonitor, FeatureTSNE, FeatureMaps, ConfusionAndErrors)
"""Callbacks that make the learning visible, on unless the user has given one of the kind."""

NOT_SAVED = ("run", "resume", "ckpt_path", "weights_only")
"""Options that say where a run lies and begins; they are no part of what it computes."""

FALSE_ALARMS = (
    ".*treespec, LeafSpec.*",  # between Lightning and torch
    ".*smaller than the logging interval.*",  # the loss curves get a point at the end of each epoch anyway
    ".*does not have many workers.*",  # whole batches in memory need none
    ".*callbacks used to create the checkpoint.*",  # to test a checkpoint takes none of them
    "Checkpoint directory .* exists and is not empty.*",  # a resumed run's is not
)


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
                for name, best in _summaries(pl_module).items():
                    logger.experiment.define_metric(name, summary=best, step_metric="trainer/global_step")


def saved_options(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """Give the options that ``config.yaml`` keeps, as plain values.

    Args:
        parser: Of the subcommand.
        config: What it has parsed.

    Returns:
        The options by name, without those that are not saved.
    """
    options = yaml.safe_load(parser.dump(config, skip_none=False))
    return {name: value for name, value in options.items() if name not in NOT_SAVED}


def _summaries(model: LightningModule) -> dict[str, str]:
    """Which value of a curve W&B shall show in its tables, the least or the greatest; otherwise it is the last."""
    found = {"val/error": "min", "test/error": "min", "val/accuracy": "max", "test/accuracy": "max"}
    for name in model.network.loss_names if isinstance(model, PrimeNet) else []:
        found |= {f"val/loss/{name}": "min", f"val/accuracy/{name}": "max"}
    return found


class PrimeNetCLI(LightningCLI):
    """LightningCLI around run folders.

    Every option of `PrimeNet`, of the data modules and of the Trainer comes from YAML and flags, subclasses
    by class path. ``fit`` makes a run folder, trains, tests the best checkpoint once and sums up.
    """

    model: PrimeNet
    datamodule: ImageDataModule
    run: RunFolder
    subcommand: str

    def add_default_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the seed; not ``true`` for a random one, since the data's seed is linked to it."""
        parser.add_argument("--seed_everything", type=int, default=0, help="Seed of weights, splits and order.")

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Add the options of runs, the defaults, and the links from data to model."""
        parser.add_argument(
            "--run",
            type=str | None,
            default=None,
            help="Run folder: of fit, the new one (default: runs/DATA-SIZE-TIME); of validate and test, the "
            "one to look at: its options and its best checkpoint.",
        )
        parser.add_argument(
            "--resume",
            type=str | None,
            default=None,
            help="Run folder to go on with (fit only), options included.",
        )
        parser.add_argument(
            "--figures",
            type=bool,
            default=True,
            help="Whether to look at routing, features, maps and errors beside the losses (fit only).",
        )
        parser.add_argument(
            "--every_n_train_steps",
            type=int,
            default=100,
            help="Optimizer steps between two checkpoints: as many a crash can cost (fit only).",
        )
        parser.set_defaults(
            {
                "model": {"class_path": "primenet_lightning.PrimeNet"},
                "data": {"class_path": "primenet_lightning.datamodules.DigitsDataModule"},
            }
        )
        for name in ("in_channels", "image_size", "num_classes"):
            parser.link_arguments(f"data.{name}", f"model.init_args.{name}", apply_on="instantiate")
        parser.link_arguments("seed_everything", "data.init_args.seed")

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Parse, after the run's own config.yaml has been put before the user's options."""
        self.config = parser.parse_args(with_run_config(sys.argv[1:] if args is None else args))

    def before_instantiate_classes(self) -> None:
        """Decide on the run folder; nothing is written yet.

        Raises:
            ValueError: If no network is named to validate or test, if ``fit`` is given a strategy whose processes leave
                the first one without results, or if ``--resume`` is given together with another run or checkpoint.
        """
        options = self.config[self.subcommand]
        self.saved: dict[str, Any] | None = None
        self.batches_done: int | None = None
        if self.subcommand != "fit":
            if options["run"] is None and options["ckpt_path"] is None:
                raise ValueError(
                    f"primenet {self.subcommand} needs a trained network: name its run folder with --run, or "
                    "a checkpoint with --ckpt_path"
                )
            self.run = RunFolder(options["run"] or ".")
            return
        if options["trainer"]["strategy"] in ("ddp_spawn", "ddp_fork", "ddp_notebook"):
            raise ValueError(
                f"strategy={options['trainer']['strategy']!r} leaves the process that tests and sums up without "
                "the results; use strategy='ddp'"
            )
        if options["resume"] is None:
            self.run = self._new_run(options)
        elif options["run"] is not None or options["ckpt_path"] is not None:
            raise ValueError(
                f"resume={options['resume']} goes on in its own folder from its own checkpoint; leave out "
                "--run and --ckpt_path"
            )
        else:
            self.run = RunFolder.existing(options["resume"])
            if self.run.last is not None:
                self.saved = AtomicCheckpointIO().load_checkpoint(self.run.last)
                self.batches_done = self._check_unfinished(self.saved, options["trainer"])

    @staticmethod
    def _new_run(options: Any) -> RunFolder:
        """The folder of a new run, the same for all of its processes; the first of them looks whether it is free."""
        path = options["run"] or os.environ.get(RUN_VARIABLE)
        if process_rank() > 0 and path is not None:
            return RunFolder(path)
        if path is None and started_by_others():
            raise ValueError(
                "run=None makes up a name from the time, on which processes that torchrun or SLURM started cannot "
                "agree; name the run folder with --run"
            )
        data = options["data"]["class_path"].rsplit(".", 1)[-1].removesuffix("DataModule").lower()
        size = options["model"].get("init_args", {}).get("size", "custom")
        return RunFolder.new(options["run"], f"{data}-{size}")

    def _check_unfinished(self, saved: dict[str, Any], options: Any) -> int:
        """Refuse to resume a finished run; else say how many batches it has done."""
        progress = saved["loops"]["fit_loop"]
        # "completed" is still one behind in a checkpoint that is written at the end of an epoch
        epochs = progress["epoch_progress"]["current"]["processed"]
        for name, done in (("max_epochs", epochs), ("max_steps", saved["global_step"])):
            limit = options[name]
            # one that was killed after its training has its test still before it
            if limit is not None and 0 <= limit <= done and self.run.is_finished:
                raise ValueError(
                    f"resume={self.run.path} is finished: {name}={limit} is reached; to train on, raise "
                    f"--trainer.{name} above {done}"
                )
        return int(progress["epoch_loop.batch_progress"]["total"]["ready"])

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Build the Trainer with the run's loggers and callbacks, unless the user chose others."""
        options = self._get(self.config_init, "trainer")
        fitting = self.subcommand == "fit"
        options["default_root_dir"] = str(self.run.path)
        if options["logger"] is None:
            options["logger"] = self._loggers() if fitting and not options["fast_dev_run"] else False
        chosen = options["callbacks"] or []
        callbacks = list(chosen) if isinstance(chosen, Sequence) else [chosen]
        if options["enable_progress_bar"] is not False and not _any(callbacks, ProgressBar):
            callbacks.append(LossProgressBar())
        self.best = BestCheckpoint(self.run.checkpoints)
        self.time = Timer(options["max_time"])
        options["max_time"] = None  # which that one looks after: Lightning takes one timer
        if fitting:
            kinds = LOOKING if self._get(self.config_init, "figures") else LOOKING[:1]
            callbacks += [kind(folder=self.run.path) for kind in kinds if not _any(callbacks, kind)]
            callbacks += [CostSummary(), self.time]
            if options["enable_checkpointing"] is not False:
                every = self._get(self.config_init, "every_n_train_steps")
                stop = GracefulStop(f"primenet fit --resume {self.run.path}")
                callbacks += [self.best, LastCheckpoint(self.run.checkpoints, every), stop]
        options["callbacks"] = callbacks
        return super().instantiate_trainer(**kwargs)

    def _loggers(self) -> list[Logger]:
        # W&B goes on with a resumed run; the name would not do, another folder may have it too
        self.wandb_id = self.run.wandb_id or secrets.token_hex(4)
        mode = wandb_mode()
        loggers: list[Logger] = [] if mode is None else [self._wandb_logger(mode)]
        return [*loggers, ResumableCSVLogger(self.run.path, resume_at=self.batches_done)]

    def _wandb_logger(self, mode: str) -> PatientWandbLogger:
        return PatientWandbLogger(
            project="primenet",
            name=self.run.path.name,
            id=self.wandb_id,
            save_dir=self.run.path,
            mode=mode,  # not offline=True, which sets an environment variable that outlives the run
            log_model=mode == "online",
            tags=[self.datamodule.dataset_name, str(self.model.hparams.get("size", "custom"))],
        )

    def _begin_wandb(self) -> None:
        """Begin W&B's run, offline where that fails, or not at all: what fails later would stop the training."""
        for mode in ("as chosen", "offline"):
            found = [logger for logger in self.trainer.loggers if isinstance(logger, PatientWandbLogger)]
            if not found:
                return
            try:
                _ = found[0].experiment
                return
            except Exception as error:
                others = [logger for logger in self.trainer.loggers if logger is not found[0]]
                goes_on = mode == "as chosen"
                print(
                    f"W&B cannot begin the run ({str(error).strip().partition(chr(10))[0]}); "
                    + (
                        f"it is kept in {self.run.path}/wandb: send it later with `wandb sync`"
                        if goes_on
                        else "without"
                    ),
                    file=sys.stderr,
                )
                self.trainer.loggers = [self._wandb_logger("offline"), *others] if goes_on else others

    # -- fit -----------------------------------------------------------------------------------------------

    def before_fit(self) -> None:
        """Find what is wrong with data, options and checkpoint before anything is written, on the first process."""
        if not self.trainer.is_global_zero:
            return  # Lightning prepares the data of the others, and lets them wait for it
        self.datamodule.prepare_data()
        self.datamodule.setup("fit")
        self.model.trainer = self.trainer
        PrimeNet.setup(self.model, "fit")  # not a subclass's own, which may only run once
        self.model.configure_optimizers()
        if self.saved is not None:
            refuse_classes(self.saved.get("data_description"), self.datamodule.description())
            self.model.network.match_capsules(self.saved["state_dict"], "network.")
            refuse_architecture(self.saved["state_dict"], self.model.state_dict())
            loader: Any = self.datamodule.train_dataloader()
            for state in self.saved["loops"]["fit_loop"]["state_dict"].get("combined_loader", []):
                loader.load_state_dict(state)  # it refuses other images, or another order

    def fit(self, model: LightningModule, **kwargs: Any) -> None:
        """Train; from the newest checkpoint of a run that is resumed.

        Args:
            model: The model.
            **kwargs: Further arguments of ``Trainer.fit``.
        """
        if self.saved is not None:
            self.saved = None  # as large as the model
            kwargs |= {"ckpt_path": str(self.run.last), "weights_only": True}
        first = self.trainer.is_global_zero
        new = first and not self.run.path.exists()
        if first and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            # before anything else, or a crash from now on would leave a folder that --resume does not know
            self.run.path.mkdir(parents=True, exist_ok=True)
            options = saved_options(self._parser(self.subcommand), self.config[self.subcommand])
            write_whole(self.run.config, yaml.safe_dump(options, sort_keys=False))
            self._begin_wandb()
        os.environ[RUN_VARIABLE] = str(self.run.path)  # for the processes that Lightning starts
        refused = True
        try:
            self.trainer.fit(model, **kwargs)
            refused = False
        finally:
            del os.environ[RUN_VARIABLE]
            if new and [path.name for path in self.run.path.glob("*")] == ["config.yaml"] and refused:
                self.run.config.unlink()  # Lightning refused an option
                self.run.path.rmdir()

    def after_fit(self) -> None:
        """Test the best checkpoint, once, and sum up."""
        if self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        best = self.best.best_model_path
        if not best or self.best.best_model_score is None:
            print(
                "No test and no summary.json: no best checkpoint was chosen, which takes a validation and "
                f"checkpoints.\nrun folder: {self.run.path}"
            )
            return
        validation_error = float(self.best.best_model_score)
        seconds = self.time.time_elapsed("train")  # before the test, which loads the timer's state of back then
        self.trainer.test(self.model, datamodule=self.datamodule, ckpt_path=best, weights_only=True, verbose=False)
        if not self.trainer.is_global_zero:
            return
        test_error = float(self.trainer.callback_metrics["test/error"])
        summary = self._summary(validation_error, test_error, seconds)
        for logger in self.trainer.loggers:
            if isinstance(logger, WandbLogger):
                with without_stopping("sending the summary to W&B"):
                    logger.experiment.summary.update({f"final/{name}": value for name, value in summary.items()})
                    logger.log_table(
                        "tables/summary", columns=["what", "measured", "claimed"], data=result_rows(summary)
                    )
        with without_stopping(f"writing into {self.run.path}"):
            self.run.write_summary(summary)
            from primenet_lightning.runs.report import write_report

            write_report(self.run)
        finish_wandb()  # it has some words to say, and the table shall be the last
        Console().print(result_table(summary))
        print(f"run folder: {self.run.path}")  # not by rich, which would wrap it

    def _summary(self, validation_error: float, test_error: float, seconds: float) -> dict[str, Any]:
        """What ``summary.json`` holds; the network is that of the best checkpoint by now."""
        network: PrimeNetwork = self.model.network
        cost = count_cost(network)
        dataset = self.datamodule.dataset_name
        return {
            "dataset": dataset,
            "seed": self._get(self.config, "seed_everything"),
            "test_error": round(test_error, 4),  # counted in float32, which has no more digits
            "validation_error": round(validation_error, 4),
            "parameters": cost.parameters,
            "multiply_adds_inference": cost.multiply_adds_inference,
            "multiply_adds_training": cost.multiply_adds_training,
            "epochs": self.trainer.current_epoch,
            "skipped_steps": self.model.skipped_steps,
            "seconds": seconds,
            "images_per_second": self._images_seen() / seconds,
            "peak_memory_bytes": peak_memory_bytes(),
            "routing": [network.history.shares(i, len(names)) for i, names in enumerate(network.capsule_names)],
            "routing_mode": network.routing_mode,
            "versions": versions(),
            "git_commit": git_commit(),
            **({"paper": PAPER[dataset] | PAPER_COST} if dataset in PAPER else {}),
        }

    def _images_seen(self) -> float:
        """Training images over all epochs, all parts of a resumed run included."""
        loop, data = self.trainer.fit_loop, self.datamodule
        batches = self.trainer.num_training_batches
        in_epoch = min(batches * data.batch_size, len(data.train_dataset))
        return loop.epoch_loop.batch_progress.total.completed * in_epoch / batches

    # -- validate and test ---------------------------------------------------------------------------------

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
        kwargs["ckpt_path"] = kwargs.get("ckpt_path") or str(self.run.best)
        return kwargs | {"weights_only": True}

    def _parse_ckpt_path(self) -> None:
        """Keep a checkpoint's hyperparameters from replacing the user's options; ``--run`` brings them."""

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Fit, validate and test; predict needs neither data nor options and has a parser of its own."""
        data = {"model", "train_dataloaders", "val_dataloaders", "dataloaders", "datamodule"}
        return {"fit": data, "validate": data, "test": data}


def _any(callbacks: Sequence[Callback], kind: type[Callback]) -> bool:
    return any(isinstance(callback, kind) for callback in callbacks)


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
    if mode := os.environ.get("WANDB_MODE"):
        return mode
    return "online" if wandb.login(prompt=False) else "offline"


def finish_wandb(exit_code: int = 0) -> None:
    """Let W&B write what it has, if it was used.

    Args:
        exit_code: What W&B is to show as the run's status; 0 is success.
    """
    if (wandb := sys.modules.get("wandb")) is not None:
        with without_stopping("finishing with W&B"):
            wandb.finish(exit_code=exit_code)


def with_run_config(args: Sequence[str]) -> list[str]:
    """Put the options of the run first that ``--resume RUN``, or ``--run RUN`` of test and validate, names.

    Options after it win, so a run can be resumed with more epochs. Test and validate do not go on with the
    run's loggers, one of which might begin its file anew.

    Args:
        args: Command line without the program's name.

    Returns:
        The arguments for the parser.

    Raises:
        FileNotFoundError: If the run does not exist.
    """
    args = _requeued(list(args))
    option, more = {
        "fit": ("--resume", []),
        "validate": ("--run", ["--trainer.logger=false"]),
        "test": ("--run", ["--trainer.logger=false"]),
    }.get(args[0] if args else "", ("", []))
    for position, argument in enumerate(args):
        name, equals, run = argument.partition("=")
        if option and name == option and (equals or position + 1 < len(args)):
            run = run if equals else args[position + 1]
            return [args[0], "--config", str(RunFolder.existing(run).config), *more, *args[1:]]
    return args


def _requeued(args: list[str]) -> list[str]:
    """A job that SLURM has put into its queue again runs the same command; its run exists, and is gone on with."""
    if args[:1] != ["fit"] or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return args
    for position, argument in enumerate(args):
        name, equals, run = argument.partition("=")
        if name == "--run" and (equals or position + 1 < len(args)):
            run = run if equals else args[position + 1]
            if RunFolder(run).config.is_file():
                rest = args[1:position] + args[position + (1 if equals else 2) :]
                return [args[0], f"--resume={run}", *rest]
    return args


def process_rank() -> int:
    """Which process this is, of all that train together, by what torchrun, Lightning, SLURM or LSF say."""
    for name in ("RANK", "LOCAL_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK"):
        if name in os.environ:
            return int(os.environ[name])
    return 0


def started_by_others() -> bool:
    """Whether several processes were started with this one, by torchrun, SLURM or LSF."""
    sizes = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS", "JSM_NAMESPACE_SIZE"))
    return any(int(size) > 1 for size in sizes)


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


def report(args: Sequence[str]) -> int:
    """Run ``primenet report``: one self-contained page from a run folder.

    Args:
        args: Command line after ``report``.

    Returns:
        0.
    """
    from primenet_lightning.runs.report import write_report

    parser = ArgumentParser(prog="primenet report", description="Write report.html into a run folder.")
    parser.add_argument("run", type=str, help="Run folder.")
    print(write_report(RunFolder.existing(parser.parse_args(list(args)).run)))
    return 0


def dashboard(args: Sequence[str]) -> int:
    """Run ``primenet dashboard``: a ready W&B workspace.

    Args:
        args: Command line after ``dashboard``.

    Returns:
        0, or 1 if it could not be built.
    """
    from primenet_lightning.commands.dashboard import main as build

    return build(args)


def reproduce(args: Sequence[str]) -> int:
    """Run ``primenet reproduce``: the paper's claims, measured.

    Args:
        args: Command line after ``reproduce``.

    Returns:
        0.
    """
    from primenet_lightning.commands.reproduce import reproduce as run

    return run(args)


def probe(args: Sequence[str]) -> int:
    """Run ``primenet probe``: a linear classifier on the features of a run, the paper's phase 2.

    Args:
        args: Command line after ``probe``.

    Returns:
        0.
    """
    from primenet_lightning.commands.probe import main as run

    return run(args)


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "predict": predict,
    "report": report,
    "dashboard": dashboard,
    "probe": probe,
    "reproduce": reproduce,
}
"""Commands that are not LightningCLI's."""


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
        with warnings.catch_warnings():
            for message in FALSE_ALARMS:
                warnings.filterwarnings("ignore", message)
            command = COMMANDS.get(args[0] if args else "")
            status = run_lightning(args) if command is None else command(args[1:])
        failed = False
        return status
    except Exception as error:
        ours: BaseException | None = error
        while ours is not None and not _is_ours(ours):
            ours = ours.__cause__  # the parser wraps what a constructor raises
        if ours is None:
            raise
        print(f"primenet: error: {ours}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:  # outside the fit, which has an answer of its own
        print("primenet: stopped", file=sys.stderr)
        return 130
    finally:
        finish_wandb(int(failed))


def run_lightning(args: Sequence[str]) -> int:
    """Run ``fit``, ``validate`` or ``test``.

    Args:
        args: Command line without the program's name.

    Returns:
        0.
    """
    PrimeNetCLI(
        PrimeNet,
        ImageDataModule,
        save_config_callback=BeginRun,
        save_config_kwargs={"save_to_log_dir": False},
        parser_kwargs={
            "description": f"Train, validate and test PrimeNet. See also `primenet {'|'.join(COMMANDS)} --help`.",
        },
        subclass_mode_model=True,
        subclass_mode_data=True,
        auto_configure_optimizers=False,
        trainer_defaults={"max_epochs": 40, "num_sanity_val_steps": 0, "enable_model_summary": False},
        args=list(args),
    )
    return 0


def _is_ours(error: BaseException) -> bool:
    """Whether a check of this package raised an error, whose sentence then says all; others keep their traceback."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    module = "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
    checks = (ValueError, TypeError, OSError, NonFiniteError)  # torch's own in one of our lines is a RuntimeError
    return module.startswith("primenet_lightning.") and isinstance(error, checks)


if __name__ == "__main__":
    sys.exit(main())
