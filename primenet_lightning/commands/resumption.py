"""Where a run lives and from where it goes on: a new folder, one that SLURM requeued, or one that is resumed."""

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import Trainer
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.utilities import rank_zero_only

from primenet_lightning.class_paths import refuse_others
from primenet_lightning.commands.command_line import given_option
from primenet_lightning.commands.version_0_1 import in_todays_words
from primenet_lightning.runs.folder import RunFolder

RUN_VARIABLE = "PRIMENET_RUN"
"""Environment variable that tells the processes which Lightning starts in which folder they run."""

NOT_SAVED = ("run", "resume", "ckpt_path", "weights_only")
"""Options that say where a run lies and begins; they are no part of what it computes."""

STRATEGIES_WITHOUT_RESULTS = ("ddp_spawn", "ddp_fork", "ddp_notebook")
"""Whose first process learns nothing of what the others did."""

WITH_RUN: dict[str, tuple[str, tuple[str, ...]]] = {
    "fit": ("--resume", ()),
    "validate": ("--run", ("--trainer.logger=false",)),
    "test": ("--run", ("--trainer.logger=false",)),
}
"""By command the option that names a run whose options hold, and what else then holds.

Test and validate do not go on with the run's loggers, one of which might begin its file anew.
"""

# -- the command line --------------------------------------------------------------------------------------------------


def with_run_config(args: Sequence[str]) -> list[str]:
    """Put the options of the run first that ``--resume RUN``, or ``--run RUN`` of test and validate, names.

    Options after it win, so a run can be resumed with more epochs.

    Args:
        args: Command line without the program's name.

    Returns:
        The arguments for the parser.

    Raises:
        FileNotFoundError: If the run does not exist.
    """
    args = requeued(args)
    command = args[0] if args else ""
    if command not in WITH_RUN:
        return args
    option, more = WITH_RUN[command]
    run = given_option(option, args)
    if run is None:
        return args
    return [command, "--config", run_config(RunFolder.existing(run.value)), *more, *args[1:]]


def requeued(args: Sequence[str]) -> list[str]:
    """Resume where SLURM has put a job into its queue again: it runs the same command, and its run exists by now.

    Args:
        args: Command line without the program's name.

    Returns:
        The same; of a requeued ``fit --run RUN`` with ``--resume RUN`` in its place.
    """
    args = list(args)
    if args[:1] != ["fit"] or os.environ.get("SLURM_RESTART_COUNT", "0") == "0":
        return args
    run = given_option("--run", args)
    if run is None or not RunFolder(run.value).config.is_file():
        return args
    return ["fit", f"--resume={run.value}", *args[1 : run.start], *args[run.end :]]


# -- options, saved and read again -------------------------------------------------------------------------------------


def saved_options(parser: LightningArgumentParser, config: Any) -> dict[str, Any]:
    """Give the options that ``config.yaml`` keeps, as plain values.

    Args:
        parser: Of the subcommand.
        config: What it has parsed.

    Returns:
        The options by name, without those that are not saved.
    """
    options = yaml.safe_load(parser.dump(config, skip_none=False))
    data = config["data"].get("init_args") or {}
    if data.get("seed", config["seed_everything"]) != config["seed_everything"]:
        options["data"]["init_args"]["seed"] = data["seed"]  # linked to the run's seed otherwise, and left out
    return {name: value for name, value in options.items() if name not in NOT_SAVED}


def options_of(run: RunFolder) -> dict[str, Any]:
    """Read the options of a run.

    Args:
        run: The run.

    Returns:
        What its ``config.yaml`` says, by name.

    Raises:
        ValueError: If it is no YAML, or has no options in it.
    """
    remedy = "mend it, or begin a new run"
    try:
        options = yaml.safe_load(run.read_config())
    except yaml.YAMLError as error:
        raise ValueError(f"{run.config} is no YAML ({' '.join(str(error).split())}); {remedy}") from None
    if not isinstance(options, dict):
        raise ValueError(f"{run.config} has no options by name; {remedy}")
    refuse_others(run.config, options)
    return options


def run_config(run: RunFolder) -> str:
    """Give a run's options as ``--config`` takes them.

    Args:
        run: The run.

    Returns:
        The path of its ``config.yaml``; where that has options of version 0.1, its content in today's words.
    """
    options = options_of(run)
    todays = in_todays_words(options)
    if todays == options:
        return str(run.config)
    return yaml.safe_dump(todays, sort_keys=False)


# -- the folder --------------------------------------------------------------------------------------------------------


def new_run(options: Any, parent: str | None = None) -> RunFolder:
    """Choose the folder of a new run, the same for all of its processes; the first of them looks whether it is free.

    Args:
        options: Of ``fit``.
        parent: Where runs without a name lie; None is ``"runs"``.

    Returns:
        The folder, which is not made yet.

    Raises:
        ValueError: If processes that others started would have to agree on a name.
        FileExistsError: If the folder holds something.
    """
    path = options["run"] or os.environ.get(RUN_VARIABLE)
    rank: int = rank_zero_only.rank  # type: ignore[attr-defined]
    if rank > 0 and path is not None:
        return RunFolder(path)
    if path is None and started_by_others():
        raise ValueError(
            "run=None makes up a name from the time, on which processes that torchrun or SLURM started cannot "
            "agree; name the run folder with --run"
        )
    data = _class_name(options["data"]).removesuffix("DataModule")
    size = options["model"].get("init_args", {}).get("size") or _class_name(options["model"])
    return RunFolder.new(options["run"], f"{data}-{size}".lower(), parent or "runs")


def _class_name(options: Mapping[str, Any]) -> str:
    return str(options["class_path"].rsplit(".", 1)[-1])


def started_by_others() -> bool:
    """Tell whether several processes were started with this one, by torchrun, SLURM or LSF."""
    sizes = (os.environ.get(name, "1") for name in ("WORLD_SIZE", "SLURM_NTASKS", "JSM_NAMESPACE_SIZE"))
    return any(int(size) > 1 for size in sizes)


def refuse_strategy_without_results(strategy: Any) -> None:
    """Refuse a strategy whose processes leave the one that tests and sums up without the results.

    Args:
        strategy: The Trainer's, as the user gave it.

    Raises:
        ValueError: If it is one.
    """
    if strategy in STRATEGIES_WITHOUT_RESULTS:
        raise ValueError(
            f"strategy={strategy!r} leaves the process that tests and sums up without the results; use strategy='ddp'"
        )


def existing_checkpoint(path: str | Path | None) -> str | None:
    """Look whether a checkpoint is there.

    Args:
        path: The file, or None.

    Returns:
        The path, the home folder written out; None for none.

    Raises:
        FileNotFoundError: If there is no such file.
    """
    if path is None:
        return None
    file = Path(path).expanduser()
    if not file.is_file():
        raise FileNotFoundError(f"ckpt_path={path} does not exist; give a checkpoint, or a run by --run")
    return str(file)


def batches_done(run: RunFolder, saved: Mapping[str, Any], trainer: Mapping[str, Any]) -> int:
    """Tell how many batches a run that is resumed has done.

    Args:
        run: The run.
        saved: Its last checkpoint.
        trainer: Options of the Trainer that goes on with it.

    Returns:
        Batches, over all epochs.

    Raises:
        ValueError: If the run is finished.
    """
    progress = saved["loops"]["fit_loop"]
    # "completed" is still one behind in a checkpoint that is written at the end of an epoch
    epochs = progress["epoch_progress"]["current"]["processed"]
    for name, done in (("max_epochs", epochs), ("max_steps", saved["global_step"])):
        limit = trainer[name]
        # one that was killed after its training has its test still before it
        if limit is not None and 0 <= limit <= done and run.is_finished:
            raise ValueError(
                f"resume={run.path} is finished: {name}={limit} is reached; to train on, raise "
                f"--trainer.{name} above {done}"
            )
    return int(progress["epoch_loop.batch_progress"]["total"]["ready"])


def has_begun(trainer: Trainer, done: int | None) -> bool:
    """Tell whether a fit has done a batch.

    Args:
        trainer: Of the fit.
        done: `batches_done` of the run that is resumed; None of a new one.

    Returns:
        Whether it has; in a run that is resumed, a further one.
    """
    batches = trainer.fit_loop.epoch_loop.batch_progress.total
    if done is not None:
        return batches.ready > done
    return batches.completed > 0 or trainer.global_step > 0
