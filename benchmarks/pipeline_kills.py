"""Kill one random process of a pipeline at a random moment, again and again; then go on.

    python benchmarks/pipeline_kills.py [--kills 10] [--processes 2] [--seed 0]

A run of the command trains four blocks of capsules on the digits in several processes, and saves a checkpoint every
five steps. One of its processes, drawn at random, gets ``kill -9`` after a random number of steps. All others have to
end within 20 seconds, and one of them has to say in a sentence what was lost. The run then goes on with ``--resume``,
and its last checkpoint has to be that of one process that was never disturbed, to the last bit. The last line is one
JSON object; the command fails if one kill breaks one of these promises.
"""

import argparse
import random
import re
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import torch
from sessions import Session
from timing import Bound, conclude, machine
from torch import Tensor

BOUNDS = [Bound("slowest_end_s", "at most", 20.0), Bound("kills_without_a_fault", "at least", 1.0)]
SENTENCE = (
    r"\S+ \S+ of the pipeline[^.;]* has ended|Child process with PID \d+ terminated with code -9|"
    r"another process of this training has ended"
)
"""The pipeline's own, or Lightning's, if that looks after its processes just then and is the first to notice."""

EVERY = 5
"""Steps between checkpoints."""

OPTIONS = (
    "--data=digits",
    "--model.depth=4",
    "--model.pool_every=9",
    "--model.keyed_random=true",
    "--trainer.max_epochs=4",
    f"--every_n_train_steps={EVERY}",
)
STEPS = 128
"""Of such a run."""


class Killed(NamedTuple):
    """What a kill came to.

    Attributes:
        step: After which.
        age: Steps that were done, and are not in ``last.ckpt``.
        seconds: From the kill until all processes had ended.
        sentence: What was said; empty for nothing.
        status: Of the run as it was gone on with.
    """

    step: int
    age: int
    seconds: float
    sentence: str
    status: int


def in_pipeline(processes: int) -> list[str]:
    """Tell the options of a pipeline of so many processes."""
    return ["--trainer.strategy=local_pipeline", f"--trainer.devices={processes}"]


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


def kill_one(session: Session, steps: int, moments: random.Random, all_at_once: bool = False) -> Killed:
    """Begin a run, kill one process, wait for the end of all, and go on.

    Args:
        session: The run.
        steps: Of a whole run.
        moments: The random numbers.
        all_at_once: Whether all processes are killed, and not one.

    Returns:
        What came of it.
    """
    session.begin()
    if moments.random() < 0.1:  # while it begins
        time.sleep(moments.uniform(4, 20))
    else:
        session.wait_for_step(moments.randrange(1, steps))
        time.sleep(moments.uniform(0, 0.2))
    victims = session.members()
    if victims and not all_at_once:
        victims = [moments.choice(victims)]
    session.signal(victims, signal.SIGKILL)
    seconds = session.seconds_to_end()
    step, saved = session.steps, 0
    if step:
        saved = torch.load(session.last, weights_only=True)["global_step"]
    sentence = re.search(SENTENCE, session.words)
    if sentence is None and not all_at_once:
        print(session.words[-500:])
    # go on
    session.begin()
    status = session.wait()
    return Killed(step, step - saved, seconds, sentence.group() if sentence else "", status)


def main() -> None:
    """Kill, print what came of each, and one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--processes", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    moments = random.Random(options.seed)
    results: list[Killed] = []
    good = 0
    with tempfile.TemporaryDirectory() as base:
        undisturbed = Session(Path(base) / "undisturbed", OPTIONS)
        undisturbed.begin()
        undisturbed.wait()
        expected = weights_of(undisturbed.folder)
        for number in range(options.kills):
            session = Session(Path(base) / f"run{number}", [*OPTIONS, *in_pipeline(options.processes)])
            result = kill_one(session, STEPS, moments)
            results.append(result)
            is_equal = are_equal(weights_of(session.folder), expected)
            verdict = "equal" if is_equal else "NOT EQUAL"
            print(f"all ended after {result.seconds:.1f} s; {verdict} after going on; {result.sentence}", flush=True)
            good += bool(is_equal and result.sentence and result.seconds <= 20 and result.age <= EVERY)
    figures: dict[str, float | str] = {
        "kills": len(results),
        "kills_without_a_fault": good / len(results),
        "slowest_end_s": max(result.seconds for result in results),
        "device": machine("cpu"),
    }
    conclude(figures, BOUNDS)


if __name__ == "__main__":
    main()
