"""Kill runs of every mode: one process, a deep stack, a cut backbone, a baseline, two ranks, a pipeline.

`kills.py --modes` calls it. Runs of one process are killed as `kills.experiment` does; of several processes one that
is drawn at random, or all at once, as `pipeline_kills` does. Runs of two ranks are compared with an unbroken run of
two ranks, and those of the pipeline with one process.
"""

import random
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

from kills import compare, experiment, steps_done
from pipeline_kills import in_pipeline, kill_one
from sessions import QUIET, Session


class Mode(NamedTuple):
    """How a run is trained that is killed.

    Attributes:
        weight: Kills of 200.
        options: Of ``primenet fit``.
        spread: Options that make several processes of it; none for one process.
        is_pipeline: Whether its results are those of one process, to the bit.
    """

    weight: int
    options: Sequence[str]
    spread: Sequence[str] = ()
    is_pipeline: bool = False


CONFIGS = Path(__file__).parents[1] / "configs"
DIGITS = ("--data=digits", "--trainer.max_epochs=4", "--trainer.limit_train_batches=20")
BACKBONE = f"--config={CONFIGS / 'backbones/resnet32.yaml'}"

MODES = {
    "single": Mode(114, DIGITS),
    "deep": Mode(30, [f"--config={CONFIGS / 'deep/digits.yaml'}", *DIGITS]),
    "cut": Mode(25, [BACKBONE, *DIGITS, "--data.augmentation=null", "--data.batch_size=20"]),
    "baseline": Mode(15, ["--model=resnet20", *DIGITS, "--data.batch_size=20"]),
    "ranks": Mode(8, DIGITS, ["--trainer.strategy=ddp", "--trainer.devices=2"]),
    "pipeline": Mode(
        8, [*DIGITS, "--model.depth=4", "--model.pool_every=9", "--model.keyed_random=true"], in_pipeline(2), True
    ),
}
"""By name."""


def modes_of(words: str) -> list[str]:
    """Read names of modes, or ``all``.

    Args:
        words: With commas between them.

    Returns:
        The names.

    Raises:
        ValueError: If there is no such mode.
    """
    names = list(MODES) if words == "all" else words.split(",")
    for name in names:
        if name not in MODES:
            raise ValueError(f"modes={words} has {name!r}, which is none; give all, or of {', '.join(MODES)}")
    return names


def shares(kills: int, names: Sequence[str]) -> dict[str, int]:
    """Share kills out to modes by their weights; each gets one at least, and the first one what is left.

    Args:
        kills: How many.
        names: Of the modes.

    Returns:
        How many each gets.
    """
    total = sum(MODES[name].weight for name in names)
    counts = {name: max(1, kills * MODES[name].weight // total) for name in names}
    counts[names[0]] += max(0, kills - sum(counts.values()))
    return counts


def kill_modes(kills: int, names: Sequence[str], every: int, seed: int) -> dict[str, Any]:
    """Kill runs of each mode.

    Args:
        kills: How many, over all.
        names: Of the modes.
        every: Steps between checkpoints.
        seed: Of all that is random.

    Returns:
        By mode ``kills``, ``runs`` that were compared, ``oldest`` checkpoint in steps, and ``wrong``; and the sums.
    """
    results: dict[str, Any] = {}
    wrong: list[str] = []
    for name, count in shares(kills, names).items():
        print(f"-- {name}: {count} kills", flush=True)
        with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
            attempt = _of_processes if MODES[name].spread else _of_one_process
            result = attempt(Path(folder), MODES[name], count, every, seed)
        wrong += [f"{name}: {line}" for line in result["wrong"]]
        results[name] = {key: result[key] for key in ("kills", "runs", "oldest")} | {"wrong": len(result["wrong"])}
    total = sum(result["kills"] for result in results.values())
    return {"kills": total, "every": every, "seed": seed, "modes": results, "wrong": wrong}


def _of_one_process(folder: Path, mode: Mode, kills: int, every: int, seed: int) -> dict[str, Any]:
    result = experiment(folder, kills, every, seed, [*QUIET, *mode.options])
    if result["wrong"]:
        print((folder / "progress.log").read_text(errors="replace")[-3000:], flush=True)
    return result


def _of_processes(folder: Path, mode: Mode, kills: int, every: int, seed: int) -> dict[str, Any]:
    """Kill one run after the other, once; every fourth time all of its processes at once."""
    options = [*mode.options, f"--every_n_train_steps={every}"]
    spread = [*options, *mode.spread]
    unbroken = Session(folder / "unbroken", options if mode.is_pipeline else spread)
    unbroken.begin()
    if unbroken.wait() != 0:
        return {"kills": 0, "runs": 0, "oldest": 0, "wrong": [f"the unbroken run failed: {unbroken.words[-1000:]}"]}
    steps, moments = steps_done(unbroken.progress), random.Random(seed)
    wrong: list[str] = []
    oldest = 0
    for number in range(kills):
        session = Session(folder / f"broken{number}", spread)
        all_at_once = number % 4 == 3
        killed = kill_one(session, steps, moments, all_at_once)
        print(f"kill {number + 1}: {killed}", flush=True)
        oldest = max(oldest, killed.age)
        if killed.status != 0:
            wrong.append(f"{session.folder.name} ended with {killed.status}: {session.words[-500:]}")
            continue
        if not killed.sentence and not all_at_once:
            wrong.append(f"{session.folder.name}: no sentence")
        if killed.seconds > 20:
            wrong.append(f"{session.folder.name}: the last process ended after {killed.seconds:.0f} s")
        for difference in compare(session.folder, unbroken.folder):
            wrong.append(f"{session.folder.name}: {difference}")
        shutil.rmtree(session.folder)
    if oldest > every:
        wrong.append(f"a checkpoint was {oldest} steps old")
    return {"kills": kills, "runs": kills, "oldest": oldest, "wrong": wrong}
