"""Kill one random process of a pipeline at a random moment, again and again; then go on.

    python benchmarks/pipeline_kills.py [--kills 10] [--processes 2] [--seed 0]

A run of the command trains four blocks of capsules on the digits in several processes, and saves a checkpoint every
five steps. One of its processes, drawn at random, gets ``kill -9`` after a random number of steps. All others have to
end within 20 seconds, and one of them has to say in a sentence what was lost. The run then goes on with ``--resume``,
and its last checkpoint has to be that of one process that was never disturbed, to the last bit. The last line is one
JSON object; the command fails if one kill breaks one of these promises.
"""

import argparse
import contextlib
import os
import random
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from timing import Bound, conclude, machine
from torch import Tensor

BOUNDS = [Bound("slowest_end_s", "at most", 20.0), Bound("kills_without_a_fault", "at least", 1.0)]
SENTENCE = r"\S+ \S+ of the pipeline[^.;]* has ended|Child process with PID \d+ terminated with code -9"
"""The pipeline's own, or Lightning's, if that looks after its processes just then and is the first to notice."""

PATIENCE = 300.0
"""Seconds to wait for a run before it counts as hung."""


class Killed(NamedTuple):
    """What a kill came to.

    Attributes:
        seconds: From the kill until all processes had ended.
        sentence: What was said; empty for nothing.
        equal: Whether the run, gone on with, has the weights of the run that was never disturbed.
    """

    seconds: float
    sentence: str
    equal: bool


def begin(folder: Path, processes: int, log: Path) -> "subprocess.Popen[bytes]":
    """Start a run in a session of its own, or go on with one that is there."""
    command = [sys.executable, "-m", "primenet_lightning.commands.main", "fit"]
    if (folder / "config.yaml").exists():
        command += ["--resume", str(folder)]
    else:
        options = {
            "run": str(folder),
            "data": "digits",
            "model.depth": "4",
            "model.pool_every": "9",
            "model.keyed_random": "true",
            "trainer.accelerator": "cpu",
            "trainer.max_epochs": "4",
            "every_n_train_steps": "5",
            "figures": "false",
            "trainer.enable_progress_bar": "false",
        }
        if processes > 1:
            options |= {"trainer.strategy": "local_pipeline", "trainer.devices": str(processes)}
        for name, value in options.items():
            command += [f"--{name}", value]
    environment = os.environ | {"WANDB_MODE": "disabled", "OMP_NUM_THREADS": "1"}
    with log.open("ab") as file:
        return subprocess.Popen(command, stdout=file, stderr=file, env=environment, start_new_session=True)


def members(session: int) -> list[int]:
    """List the processes of a session that run the command."""
    found: list[int] = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):
            state, _, _, of_session = (entry / "stat").read_text().rpartition(")")[2].split()[:4]
            words = (entry / "cmdline").read_bytes()
            if int(of_session) == session and state != "Z" and b"primenet" in words and b"fit" in words:
                found.append(int(entry.name))
    return sorted(found)


def steps_logged(folder: Path) -> int:
    """Count the lines of a run's metrics."""
    file = folder / "metrics.csv"
    return len(file.read_bytes().splitlines()) if file.exists() else 0


def weights_of(folder: Path) -> dict[str, Any]:
    """Read the tested weights of a finished run."""
    state: dict[str, Any] = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    return state


def are_equal(one: dict[str, Any], other: dict[str, Any]) -> bool:
    """Compare two states, bit for bit."""
    unlike = one.keys() ^ other.keys()
    for name in one.keys() & other.keys():
        if isinstance(one[name], Tensor) and not torch.equal(one[name], other[name]):
            unlike.add(name)
    return not unlike


def kill_one(folder: Path, processes: int, generator: random.Random, expected: dict[str, Any]) -> Killed:
    """Begin a run, kill one process, wait for the end of all, go on, and compare."""
    log = folder.with_suffix(".log")
    run = begin(folder, processes, log)
    least = generator.randint(1, 4)
    deadline = time.monotonic() + PATIENCE
    while steps_logged(folder) < least and run.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(generator.uniform(0, 1.5))
    victims = members(run.pid)
    if victims:
        with contextlib.suppress(ProcessLookupError):
            os.kill(generator.choice(victims), signal.SIGKILL)
    killed_at = time.monotonic()
    while members(run.pid) and time.monotonic() < killed_at + PATIENCE:
        run.poll()  # or it would stay as a zombie
        time.sleep(0.1)
    seconds = time.monotonic() - killed_at
    run.wait()
    words = " ".join(log.read_text(errors="replace").split())  # the command wraps its lines
    sentence = re.search(SENTENCE, words)
    # go on
    begin(folder, processes, log).wait(PATIENCE)
    if sentence is None:
        print(words[-500:])
    return Killed(seconds, sentence.group() if sentence else "", are_equal(weights_of(folder), expected))


def main() -> None:
    """Kill, print what came of each, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = random.Random(options.seed)
    results: list[Killed] = []
    with tempfile.TemporaryDirectory() as base:
        undisturbed = Path(base) / "undisturbed"
        begin(undisturbed, 1, undisturbed.with_suffix(".log")).wait(PATIENCE)
        expected = weights_of(undisturbed)
        for number in range(options.kills):
            result = kill_one(Path(base) / f"run{number}", options.processes, generator, expected)
            results.append(result)
            verdict = "equal" if result.equal else "NOT EQUAL"
            print(f"all ended after {result.seconds:.1f} s; {verdict} after going on; {result.sentence}", flush=True)
    good = [result for result in results if result.equal and result.sentence and result.seconds <= 20]
    figures: dict[str, float | str] = {
        "kills": len(results),
        "kills_without_a_fault": len(good) / len(results),
        "slowest_end_s": max(result.seconds for result in results),
        "device": machine("cpu"),
    }
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
